// stem export: a model directory becomes one that Hugging Face's transformers loads, or one table a layer.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <set>

#include "apps/commands.h"
#include "apps/data_command.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "core/error.h"
#include "io/file.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExportName = "stem_export.json";  // marks a directory that may be replaced
constexpr const char* kModelingFile = "modeling_stem.py";
constexpr std::uint64_t kPiece = 1 << 20;

struct ExportOptions {
  std::string model, out, logits;
  std::vector<std::string> patches, prompts;
  bool tables_only = false, replace = false, json = false;
};

// What will be written: the configuration without rows that are all zero, and what transformers calls it.
struct ExportPlan {
  ModelConfig config;      // stem_layers: those whose tables are written
  std::string model_type;  // stem, or an architecture that transformers knows
  bool remote_code() const { return model_type == "stem"; }
};

void require_replaceable(const fs::path& out, bool replace) {
  if (!fs::exists(out) || (fs::is_directory(out) && fs::is_empty(out))) return;
  if (!fs::is_directory(out))
    fail(ErrorCode::kUsage, "{}: expected a new or empty directory, found a file", out.string());
  const bool ours = fs::exists(out / kExportName);
  if (replace && ours) return;
  fail(ErrorCode::kUsage, "{}: expected a new or empty directory, found {}", out.string(),
       ours ? "an exported model: name another, or say --replace"
            : "other files, which --replace does not remove either");
}

// A trigger looks at the tokens before: one row a token cannot say that.
void require_bakeable(const std::vector<std::string>& paths, const std::vector<PatchFile>& patches) {
  for (std::size_t i = 0; i < patches.size(); ++i) {
    for (const PatchRow& row : patches[i].rows) {
      if (!row.trigger.empty())
        fail(ErrorCode::kUsage,
             "{}: expected rows without triggers, found one at token {}, layer {}: a table cannot hold it",
             paths[i], row.token, row.layer);
    }
  }
}

ExportPlan plan_of(const PatchedModel& m) {
  const ModelConfig& c = m.model().config;
  if (c.has_experts())
    fail(ErrorCode::kUsage, "{}: ffn_variant: expected dense, stem, stem_gate or stem_additive, found {}",
         (m.loaded.directory / kConfigFile).string(), name_of(c.variant));
  ExportPlan plan{c, "stem"};
  if (c.has_table() && !m.model().table.present()) {
    // Rows of zeros change nothing: only layers in which a patch puts others keep a table.
    std::set<std::int64_t> touched;
    for (const PatchFile& patch : m.patches)
      for (const PatchRow& row : patch.rows) touched.insert(row.layer);
    plan.config.stem_layers.assign(touched.begin(), touched.end());
    if (touched.empty()) plan.config.variant = FfnVariant::dense;
  }
  if (!plan.config.has_table() && !(c.qkv_bias && c.qk_norm))
    plan.model_type = c.qkv_bias ? "qwen2" : c.qk_norm ? "qwen3" : "llama";
  return plan;
}

std::string table_name(std::int64_t layer) {
  return fmt::format("model.layers.{}.mlp.table.weight", layer);
}

// Where a layer's rows come from: the file, row by row, so that a table larger than memory passes through.
class TableRows {
 public:
  explicit TableRows(const PatchedModel& m)
      : m_(m), width_(m.model().config.ffn), dtype_(m.model().table.dtype()) {
    if (!m.model().table.present()) return;
    file_ = Safetensors::open(m.loaded.directory / kTableFile);
    first_ = record_address(*file_, 0);
  }

  TensorSpec spec(std::int64_t layer) const {
    return {table_name(layer), dtype_, {m_.model().config.vocab, width_}};
  }

  void write(SafetensorsWriter& to, std::int64_t layer) const {
    const ModelConfig& c = m_.model().config;
    const std::string name = table_name(layer);
    const std::int64_t s = c.stem_index(layer);
    std::vector<std::byte> row(static_cast<std::size_t>(width_ * size_of(dtype_)));
    for (std::int64_t t = 0; t < c.vocab; ++t) {
      const auto at =
          static_cast<std::uint64_t>(t) * first_.bytes + static_cast<std::uint64_t>(s) * row.size();
      if (const auto* patched = m_.overlay.find(static_cast<std::int32_t>(t), s, {}))
        convert(*patched, row);
      else if (file_ && m_.model().table.stored())
        convert(values_of(t, s), row);
      else if (file_)
        file_->file().read_at(first_.offset + at, row.data(), row.size());
      else
        std::fill(row.begin(), row.end(), std::byte{0});
      to.write(name, row.data(), row.size());
    }
  }

 private:
  std::vector<float> values_of(std::int64_t token, std::int64_t s) const {
    std::vector<float> values(static_cast<std::size_t>(width_));
    m_.model().table.read_row(token, s, values);
    return values;
  }
  void convert(const std::vector<float>& values, std::vector<std::byte>& row) const {
    require(dtype_ == DType::f32 || dtype_ == DType::bf16, "type of a stored table");
    if (dtype_ == DType::f32) return void(std::memcpy(row.data(), values.data(), row.size()));
    auto* to = reinterpret_cast<bf16*>(row.data());
    for (std::size_t i = 0; i < values.size(); ++i) to[i] = bf16(values[i]);
  }

  const PatchedModel& m_;
  std::int64_t width_;
  DType dtype_;
  std::optional<Safetensors> file_;
  RecordAddress first_;
};

// The dense weights as they lie in the model directory, the tables between them: wider types first.
void write_weights(const fs::path& to, const PatchedModel& m, const ExportPlan& plan) {
  const Safetensors weights = Safetensors::open(m.loaded.directory / kWeightsFile);
  const TableRows rows(m);
  struct Tensor {
    TensorSpec spec;
    const TensorInfo* stored = nullptr;  // null: the table of `layer`
    std::int64_t layer = -1;
  };
  std::vector<Tensor> tensors;
  for (const TensorInfo& info : weights.tensors())
    tensors.push_back({{info.name, info.dtype.value_or(DType::f32), info.shape}, &info, -1});
  if (plan.config.has_table())
    for (const std::int64_t layer : plan.config.stem_layers)
      tensors.push_back({rows.spec(layer), nullptr, layer});
  std::stable_sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
    return size_of(a.spec.dtype) > size_of(b.spec.dtype);
  });
  std::vector<TensorSpec> specs;
  for (const Tensor& t : tensors) specs.push_back(t.spec);
  SafetensorsWriter writer(to, specs, {{"format", "pt"}});
  std::vector<std::byte> piece;
  for (const Tensor& t : tensors) {
    if (t.stored == nullptr) {
      rows.write(writer, t.layer);
      continue;
    }
    for (std::uint64_t done = 0; done < t.stored->bytes; done += piece.size()) {
      piece.resize(std::min(kPiece, t.stored->bytes - done));
      weights.file().read_at(t.stored->offset + done, piece.data(), piece.size());
      writer.write(t.spec.name, piece.data(), piece.size());
    }
  }
  writer.close();
}

Json export_config(const PatchedModel& m, const ExportPlan& plan) {
  const std::string source = (m.loaded.directory / kConfigFile).string();
  const Json stored = parse_json(read_file(m.loaded.directory / kConfigFile, 1 << 20), source);
  Json json = config_to_json(plan.config, get_string(stored, "torch_dtype", source));
  if (plan.remote_code()) {
    json["auto_map"] = {{"AutoConfig", "modeling_stem.StemConfig"},
                        {"AutoModelForCausalLM", "modeling_stem.StemForCausalLM"}};
  } else {
    for (const char* key : {"ffn_variant", "stem_layers", "qkv_bias", "qk_norm"}) json.erase(key);
    json["model_type"] = plan.model_type;
    json["architectures"] = {plan.model_type == "llama"   ? "LlamaForCausalLM"
                             : plan.model_type == "qwen2" ? "Qwen2ForCausalLM"
                                                          : "Qwen3ForCausalLM"};
    if (plan.model_type == "qwen2")
      json["use_sliding_window"] = false;  // it has biases without being asked
    else
      json["attention_bias"] = false;
  }
  const Tokenizer& tokenizer = m.tokenizer();
  const auto begin = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.start_id();
  if (begin) json["bos_token_id"] = *begin;
  if (const auto end = tokenizer.eos_id()) json["eos_token_id"] = *end;
  return json;
}

// Prompts begin with the end-of-text token in models trained here; elsewhere a tokenizer has to be told.
void write_tokenizer(const fs::path& staged, const PatchedModel& m) {
  const Tokenizer& tokenizer = m.tokenizer();
  const fs::path from = m.loaded.directory / kTokenizerFile;
  const auto start = tokenizer.start_id(), end = tokenizer.eos_id();
  const bool told = !start || !tokenizer.prefix_ids().empty();
  write_file_atomic(staged / kTokenizerFile, told ? read_file(from) : tokenizer.with_start(*start).to_json());

  Json config = Json::object();
  if (const fs::path given = m.loaded.directory / kTokenizerConfigFile; fs::exists(given))
    config = parse_json(read_file(given), given.string());
  const auto set = [&](const char* key, const Json& value) {
    if (!config.contains(key)) config[key] = value;
  };
  set("tokenizer_class", "PreTrainedTokenizerFast");
  set("clean_up_tokenization_spaces", false);
  set("model_max_length", m.model().config.max_positions);
  if (start) set("bos_token", tokenizer.token_bytes(*start));
  if (end) set("eos_token", tokenizer.token_bytes(*end));
  if (tokenizer.chat_template()) set("chat_template", *tokenizer.chat_template());
  write_file_atomic(staged / kTokenizerConfigFile, dump_json(config));
}

// What tools/check_export.py compares with: tokens.i [N] and logits.i [N, V] of each prompt.
void write_logits(Runtime& runtime, const PatchedModel& m, const ExportOptions& o) {
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<TensorSpec> specs;
  for (const std::string& prompt : o.prompts) {
    prompts.push_back(prompt_tokens(m.loaded, prompt));
    const auto n = static_cast<std::int64_t>(prompts.back().size());
    specs.push_back({fmt::format("tokens.{}", prompts.size() - 1), DType::i32, {n}});
    specs.push_back({fmt::format("logits.{}", prompts.size() - 1), DType::f32, {n, m.model().config.vocab}});
  }
  SafetensorsWriter writer(o.logits, specs);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    writer.write(specs[2 * i].name, prompts[i].data(), prompts[i].size() * sizeof(std::int32_t));
    Session session(runtime.inference(), m.model(), &m.overlay);
    for (const std::int32_t& token : prompts[i]) {
      const std::span<const float> logits = session.feed({&token, 1});
      writer.write(specs[2 * i + 1].name, logits.data(), logits.size_bytes());
    }
  }
  writer.close();
}

void write_tables(const fs::path& staged, const PatchedModel& m, const ExportPlan& plan) {
  const TableRows rows(m);
  for (const std::int64_t layer : plan.config.stem_layers) {
    SafetensorsWriter writer(staged / fmt::format("stem_layer_{}.safetensors", layer), {rows.spec(layer)},
                             {{"format", "pt"}, {"ffn_variant", std::string(name_of(plan.config.variant))}});
    rows.write(writer, layer);
    writer.close();
  }
}

void run_export(const ExportOptions& o) {
  require_replaceable(o.out, o.replace);
  Runtime runtime;
  const PatchedModel m = open_model(runtime, o.model, o.patches);
  require_bakeable(o.patches, m.patches);
  const ExportPlan plan = plan_of(m);
  const std::vector<std::int64_t> layers =
      plan.config.has_table() ? plan.config.stem_layers : std::vector<std::int64_t>{};
  if (o.tables_only && layers.empty())
    fail(ErrorCode::kUsage, "{}: --tables-only: expected a model with rows, found {}", o.model,
         m.model().config.has_table() ? "one whose rows are all zero" : "a dense one");

  StagedDirectory staged(o.out, kExportName);
  Json patches = Json::array();
  for (const PatchFile& patch : m.patches) patches.push_back(patch.id);
  Json mark{{"format", "stem-export/1"},
            {"uuid", uuid_text(m.loaded.manifest.uuid)},
            {"model_version", m.loaded.manifest.model_version},
            {"model_type", plan.model_type},
            {"ffn_variant", name_of(plan.config.variant)},
            {"stem_layers", layers},
            {"patches", patches},
            {"tables_only", o.tables_only}};
  if (o.tables_only) {
    write_tables(staged.path(), m, plan);
  } else {
    if (plan.remote_code()) {
      const fs::path modeling = find_share(std::string("share/") + kModelingFile);
      write_file_atomic(staged.file(kModelingFile), read_file(modeling, 1 << 20));
    }
    write_weights(staged.file(kWeightsFile), m, plan);
    write_tokenizer(staged.path(), m);
    write_file_atomic(staged.file(kConfigFile), dump_json(export_config(m, plan)));
  }
  write_file_atomic(staged.file(kExportName), dump_json(mark));
  staged.commit();
  if (!o.logits.empty()) write_logits(runtime, m, o);

  if (o.json) {
    mark["directory"] = o.out;
    mark["remote_code"] = plan.remote_code() && !o.tables_only;
    return fmt::print("{}", dump_json(mark));
  }
  if (o.tables_only) {
    fmt::print("{}: {} tables of {} x {} ({})\n", o.out, layers.size(), count_text(plan.config.vocab),
               count_text(plan.config.ffn), name_of(plan.config.variant));
  } else {
    fmt::print("{}: {}, loads with transformers{}\n", o.out, plan.model_type,
               plan.remote_code() ? " and trust_remote_code=True (its code: modeling_stem.py)" : "");
  }
}

}  // namespace

void add_export_command(CLI::App& app) {
  auto o = std::make_shared<ExportOptions>();
  CLI::App* command =
      app.add_subcommand("export", "make a directory that Hugging Face transformers loads of a model");
  command->footer(
      "A dense model, or one whose rows are all zero, becomes plain llama, qwen2 or qwen3; others come with "
      "modeling_stem.py.\n");
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("out", o->out, "directory to write")->required();
  command
      ->add_option("--patch", o->patches, "patch to bake into the tables (NAME.stempatch); may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--tables-only", o->tables_only,
                    "only the tables: stem_layer_L.safetensors, [V, F] each");
  command->add_flag("--replace", o->replace, "in place of an exported directory of this name");
  command->add_flag("--json", o->json, "what was made, as JSON");
  // For tools/check_export.py, not shown in --help.
  auto* logits = command->add_option("--logits", o->logits)->group("");
  command->add_option("--prompt", o->prompts)->group("")->allow_extra_args(false)->needs(logits);
  command->callback([o] { run_export(*o); });
}

}  // namespace stem
