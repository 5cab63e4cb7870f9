#include "apps/settings.h"

#include <toml++/toml.h>
#include <algorithm>
#include <charconv>
#include <variant>

#include "core/error.h"
#include "core/names.h"
#include "io/file.h"

namespace stem {
namespace {

using Field = std::variant<std::int64_t*, std::uint64_t*, double*, bool*, std::string*>;

struct Key {
  std::string name;
  std::string meaning;
  Field field;
  double min = 0, max = 1e12;  // of numbers
};

constexpr double kCount = 1 << 24;

// atlas.documents is a std::size_t, the same type as std::uint64_t here.
std::vector<Key> keys_of(Settings& s) {
  TrainOptions& t = s.train;
  return {
      {"model.hidden_size", "width of the residual stream, D", &s.model.width, 1, kCount},
      {"model.layers", "L", &s.model.layers, 1, 4096},
      {"model.heads", "query heads, H", &s.model.heads, 1, kCount},
      {"model.kv_heads", "key/value heads, K; 0: as many as heads", &s.model.kv_heads, 0, kCount},
      {"model.head_dim", "width of a head, A; 0: hidden_size / heads", &s.model.head_width, 0, kCount},
      {"model.ffn", "width of the FFN and of a row, F", &s.model.ffn, 1, kCount},
      {"model.max_positions", "longest context", &s.model.max_positions, 1, kCount},
      {"model.rope_theta", "base of the rotary angles", &s.model.rope_theta, 1, 1e12},
      {"model.qkv_bias", "q, k and v have biases, as in Qwen2", &s.model.qkv_bias},
      {"model.qk_norm", "heads of q and k are normed, as in Qwen3", &s.model.qk_norm},
      {"model.tied", "output head is the token embedding", &s.model.tied},
      {"model.variant", "dense, stem, stem_gate, stem_additive, hash_moe or moe", &s.variant},
      {"model.stem_layers", "third, half, full, all, none or a list such as \"1,4\"", &s.stem_layers},
      {"model.experts", "experts of a layer, E; 0: 16 in hash_moe, 8 in moe", &s.model.experts.experts, 0,
       1024},
      {"model.experts_per_token", "experts that a token passes, k; 0: 1 in hash_moe, 2 in moe",
       &s.model.experts.chosen, 0, 1024},
      {"model.expert_ffn", "width of an expert; 0: ffn in hash_moe, ffn / 2 in moe", &s.model.experts.width,
       0, kCount},
      {"model.balance_loss", "coefficient of moe's load-balancing loss", &s.model.experts.balance_loss, 0,
       1e3},
      {"model.router_z_loss", "coefficient of moe's router z-loss", &s.model.experts.z_loss, 0, 1e3},
      {"model.hash_seed", "seed of hash_moe's map from tokens to experts", &s.model.experts.hash_seed, 0,
       1e15},
      {"tokenizer.vocab_size", "tokens of a tokenizer trained here", &s.tokenizer_vocab, 257, kCount},
      {"train.steps", "optimizer steps", &t.steps, 1, 1e9},
      {"train.tokens_per_step", "tokens in a batch", &t.batch.tokens_per_step, 2, kCount},
      {"train.accumulate", "micro-batches that a step's batch is cut into, to save memory", &t.accumulate, 1,
       kCount},
      {"train.sequence", "longest sequence in tokens", &t.batch.max_sequence, 2, kCount},
      {"train.document_mask", "attention stays inside a document", &t.batch.document_mask},
      {"train.data_seed", "seed of the data order", &t.batch.seed, 0, 1e15},
      {"train.seed", "seed of the weights", &t.seed, 0, 1e15},
      {"train.lr", "peak learning rate of the backbone", &t.lr, 0, 10},
      {"train.table_lr", "peak learning rate of the tables", &t.table_lr, 0, 10},
      {"train.warmup", "steps of linear warm-up", &t.warmup, 0, 1e9},
      {"train.floor", "last learning rate as a share of the peak", &t.floor, 0, 1},
      {"train.decay", "weight decay of the backbone", &t.decay, 0, 10},
      {"train.table_decay", "weight decay of the tables", &t.table_decay, 0, 10},
      {"train.clip", "largest gradient norm of the backbone; 0: no clipping", &t.clip, 0, 1e6},
      {"train.table_clip", "largest gradient norm of the tables; 0: no clipping", &t.table_clip, 0, 1e6},
      {"train.table_optimizer", "lazy (only the batch's rows move) or exact (as dense AdamW)",
       &t.table_optimizer},
      {"train.freeze", "what keeps its values: tables, dense, or globs over tensor names", &t.freeze},
      {"train.teacher", "model whose predictions are learnt in place of the text's next tokens", &t.teacher},
      {"train.teacher_streams",
       "weight of the relative squared difference from the teacher's residual stream; 0: not learnt",
       &t.teacher_streams, 0, 1e6},
      {"train.on_spike", "continue, stop, skip or rollback when a loss is out of line", &t.on_spike},
      {"train.precision", "auto, f32 or bf16 (inputs of matrix products)", &s.precision},
      {"train.eval_every", "steps between validations; 0: only at the end", &s.eval_every, 0, 1e9},
      {"train.eval_shards", "more token shards to validate on: NAME=FILE, separated by commas",
       &s.eval_shards},
      {"train.checkpoint_every", "steps between checkpoints; 0: none", &s.checkpoint_every, 0, 1e9},
      {"train.keep_checkpoints", "checkpoints to keep", &s.keep_checkpoints, 1, 1e6},
      {"atlas.documents", "training documents of the atlas corpus", &s.atlas.documents, 1, 1e7},
      {"atlas.held_out", "validation documents of each sort", &s.atlas.held_out_documents, 1, 1e7},
      {"atlas.seed", "seed of the corpus", &s.atlas.seed, 0, 1e15},
      {"atlas.score_templates", "score only the first n templates; 0: all", &s.score_templates, 0, 1e6},
  };
}

std::string value_text(const Field& field) {
  return std::visit([](auto* f) { return fmt::format("{}", *f); }, field);
}

void parse_into(const Key& key, const std::string& text, std::string_view source) {
  const auto wrong = [&](const std::string& expected) {
    fail(ErrorCode::kUsage, "{}: {}: expected {}, found \"{}\"", source, key.name, expected, text);
  };
  const auto number = [&]<class T>(T& into, const char* kind) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const auto as_double = static_cast<double>(value);
    if (error != std::errc() || end != text.data() + text.size() ||
        !(as_double >= key.min && as_double <= key.max)) {
      wrong(fmt::format("{} in [{}, {}]", kind, key.min, key.max));
    }
    into = value;
  };
  if (auto* const* i = std::get_if<std::int64_t*>(&key.field))
    number(**i, "an integer");
  else if (auto* const* u = std::get_if<std::uint64_t*>(&key.field))
    number(**u, "an integer");
  else if (auto* const* d = std::get_if<double*>(&key.field))
    number(**d, "a number");
  else if (auto* const* b = std::get_if<bool*>(&key.field)) {
    if (text != "true" && text != "false") wrong("true or false");
    **b = text == "true";
  } else {
    *std::get<std::string*>(key.field) = text;
  }
}

}  // namespace

Settings::Settings() {
  model.kv_heads = 0;
  model.head_width = 0;
}

void Settings::assign(const std::string& name, const std::string& value, std::string_view source) {
  const std::vector<Key> keys = keys_of(*this);
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const Key& k) { return k.name == name; });
  if (found == keys.end()) {
    std::vector<std::string> known;
    for (const Key& k : keys) known.push_back(k.name);
    fail(ErrorCode::kUsage, "{}: unknown key {}{}", source, name, did_you_mean(name, known));
  }
  parse_into(*found, value, source);
  assigned_.insert(name);
}

void Settings::set(std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    fail(ErrorCode::kUsage, "--set: expected key=value, found \"{}\"", assignment);
  }
  assign(std::string(assignment.substr(0, equals)), std::string(assignment.substr(equals + 1)), "--set");
}

void Settings::load_json(const std::filesystem::path& path) {
  source_ = path.string();
  const Json json = parse_json(read_file(path), source_);
  if (!json.is_object()) fail(ErrorCode::kFormat, "{}: expected an object, found {}", source_, shown(json));
  for (const auto& [name, value] : json.items()) {
    if (!value.is_primitive()) {
      fail(ErrorCode::kFormat, "{}: {}: expected a string, number or boolean, found {}", source_, name,
           shown(value));
    }
    assign(name, value.is_string() ? value.get<std::string>() : value.dump(), source_);
  }
}

void Settings::adopt_model(const ModelConfig& config, std::string_view source) {
  const Json before = to_json();
  model = config;
  variant = name_of(config.variant);
  stem_layers = config.stem_layers.empty() ? "none" : fmt::format("{}", fmt::join(config.stem_layers, ","));
  const Json after = to_json();
  for (const std::string& name : assigned_) {
    if (!name.starts_with("model.") || before[name] == after[name]) continue;
    fail(ErrorCode::kMismatch, "{}: {}: expected {} ({}'s), found {}: leave out what the model fixes",
         source_, name, shown(after[name]), source, shown(before[name]));
  }
}

void Settings::load_toml(const std::filesystem::path& path) {
  constexpr std::uint64_t kMaxBytes = 1 << 20;
  const std::string text = read_file(path, kMaxBytes);
  source_ = path.string();
  toml::table table;
  try {
    table = toml::parse(text, source_);
  } catch (const toml::parse_error& e) {
    fail(ErrorCode::kFormat, "{}: line {}: {}", source_, e.source().begin.line, e.description());
  }
  const auto scalar = [&](const std::string& name, const toml::node& node) {
    std::string value;
    if (const auto* s = node.as_string())
      value = s->get();
    else if (const auto* i = node.as_integer())
      value = std::to_string(i->get());
    else if (const auto* d = node.as_floating_point())
      value = fmt::format("{}", d->get());
    else if (const auto* b = node.as_boolean())
      value = b->get() ? "true" : "false";
    else if (const auto* list = node.as_array()) {  // stem_layers = [1, 4]
      for (const toml::node& item : *list) {
        const auto number = item.value<std::int64_t>();
        if (!number) fail(ErrorCode::kFormat, "{}: {}: expected a list of integers", source_, name);
        value += (value.empty() ? "" : ",") + std::to_string(*number);
      }
    } else {
      fail(ErrorCode::kFormat, "{}: {}: expected a string, number, boolean or list", source_, name);
    }
    assign(name, value, source_);
  };
  for (const auto& [section, node] : table) {
    if (const toml::table* inner = node.as_table()) {
      for (const auto& [key, value] : *inner) {
        scalar(std::string(section.str()) + "." + std::string(key.str()), value);
      }
    } else {
      scalar(std::string(section.str()), node);
    }
  }
}

ModelConfig Settings::resolve_model(std::int64_t vocab) const {
  ModelConfig c = model;
  c.vocab = vocab;
  if (c.kv_heads == 0) c.kv_heads = c.heads;
  if (c.head_width == 0) {
    if (c.width % c.heads != 0) {
      fail(ErrorCode::kUsage, "{}: model.heads: expected a divisor of model.hidden_size = {}, found {}",
           source_, c.width, c.heads);
    }
    c.head_width = c.width / c.heads;
  }
  c.variant = ffn_variant_from(variant, source_);
  c.stem_layers = c.variant == FfnVariant::dense
                      ? std::vector<std::int64_t>{}
                      : stem_layers_from(stem_layers, c.layers, source_ + ": stem_layers");
  std::sort(c.stem_layers.begin(), c.stem_layers.end());
  c.validate(source_);
  if (train.batch.max_sequence > c.max_positions) {
    fail(ErrorCode::kUsage, "{}: train.sequence: expected at most model.max_positions = {}, found {}",
         source_, c.max_positions, train.batch.max_sequence);
  }
  if (precision != "auto" && precision != "f32" && precision != "bf16") {
    fail(ErrorCode::kUsage, "{}: train.precision: expected auto, f32 or bf16, found \"{}\"", source_,
         precision);
  }
  table_optimizer_from(train.table_optimizer);
  if (on_spike_from(train.on_spike) == OnSpike::rollback && checkpoint_every == 0) {
    fail(ErrorCode::kUsage, "{}: train.checkpoint_every: expected at least 1 with train.on_spike = rollback",
         source_);
  }
  return c;
}

Json Settings::to_json() const {
  Settings copy = *this;
  Json json = Json::object();
  for (const Key& key : keys_of(copy)) {
    std::visit([&](auto* field) { json[key.name] = *field; }, key.field);
  }
  return json;
}

std::string Settings::help() {
  Settings defaults;
  std::string text = "Settings (TOML sections, or --set section.key=value):\n";
  for (const Key& key : keys_of(defaults)) {
    text += fmt::format("  {:<26} {} [{}]\n", key.name, key.meaning, value_text(key.field));
  }
  return text;
}

}  // namespace stem
