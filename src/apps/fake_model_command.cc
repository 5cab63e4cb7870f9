// stem fake-model: a model directory of a given shape, filled with random numbers, for timing what does not
// exist yet or does not fit here.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstring>
#include <memory>

#include "apps/commands.h"
#include "apps/model_directory.h"
#include "apps/option_checks.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "core/error.h"
#include "core/rng.h"
#include "io/file.h"
#include "text/byte_alphabet.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string out, like, tokenizer, stem_layers = "third", variant = "stem";
  std::int64_t vocab = 0;
  std::uint64_t seed = 1;
  bool replace = false, json = false;
};

// A config.json of ours, or of a Llama, whose missing keys mean what they mean there.
ModelConfig shape_of(const Options& o) {
  const fs::path path = fs::is_directory(o.like) ? fs::path(o.like) / kConfigFile : fs::path(o.like);
  const std::string source = path.string();
  Json json = parse_json(read_file(path, 1 << 20), source);
  if (get_string(json, "model_type", source) != "stem") {
    json["model_type"] = "stem";
    const Json usual{{"ffn_variant", "dense"},
                     {"stem_layers", Json::array()},
                     {"tie_word_embeddings", false},
                     {"rope_theta", 10000.0}};
    for (const auto& [key, value] : usual.items()) {
      if (!json.contains(key) || json[key].is_null()) json[key] = value;
    }
    for (const char* key : {"num_key_value_heads", "head_dim"}) {
      if (json.contains(key) && json[key].is_null()) json.erase(key);
    }
  }
  ModelConfig c = config_from_json(json, source);
  if (o.vocab > 0) c.vocab = o.vocab;
  c.variant = ffn_variant_from(o.variant, "--variant");
  c.stem_layers = c.variant == FfnVariant::dense ? std::vector<std::int64_t>{}
                                                 : stem_layers_from(o.stem_layers, c.layers, "--stem-layers");
  if (c.stem_layers.empty()) c.variant = FfnVariant::dense;
  c.validate("--like and its changes");
  return c;
}

// One token for each byte and one that ends a text.
std::string byte_tokenizer() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[to_alphabet(std::string(1, static_cast<char>(byte)))] = byte;
  const Json level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  Json tokenizer{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  tokenizer["added_tokens"] = {{{"id", 256},
                                {"content", "<|end|>"},
                                {"single_word", false},
                                {"lstrip", false},
                                {"rstrip", false},
                                {"normalized", false},
                                {"special", true}}};
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = level;
  tokenizer["post_processor"] = nullptr;
  tokenizer["decoder"] = level;
  tokenizer["model"] = {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", Json::array()}};
  return tokenizer.dump();
}

// --tokenizer, else that of the model that --like names, else bytes.
std::string tokenizer_of(const Options& o) {
  const fs::path beside = fs::path(o.like) / kTokenizerFile;
  const bool has = fs::is_directory(o.like) && fs::exists(beside);
  if (o.tokenizer.empty() && !has) return byte_tokenizer();
  return read_file(o.tokenizer.empty() ? beside : fs::path(o.tokenizer), std::uint64_t{1} << 28);
}

// Random rows cost more than the disk takes: every record is a piece of one long random sequence, begun
// elsewhere for each token.
void write_random_table(const fs::path& dir, const ModelConfig& c, std::uint64_t seed, bool quiet) {
  const TableShape shape = c.table_shape();
  const auto record = static_cast<std::size_t>(shape.record());
  constexpr std::size_t kPool = std::size_t{1} << 20;
  const double sigma = std::sqrt(2.0 / static_cast<double>(c.vocab + c.ffn));
  const Rng values(seed, 7), places(seed, 8);
  std::vector<bf16> pool(kPool + record);
  for (std::size_t i = 0; i < pool.size(); ++i)
    pool[i] = bf16(static_cast<float>(sigma * values.normal_at(i)));
  SafetensorsWriter table(dir / kTableFile,
                          {{"stem.table", DType::bf16, {shape.vocab, shape.layers, shape.width}}}, {},
                          kDirectBlockBytes);
  Progress progress("table", shape.vocab, quiet);
  for (std::int64_t t = 0; t < shape.vocab; ++t) {
    const std::size_t at = places.at(static_cast<std::uint64_t>(t)) % kPool;
    table.write("stem.table", pool.data() + at, record * sizeof(bf16));
    if (t % 4096 == 0)
      progress.update(t, bytes_text(static_cast<double>(t) * static_cast<double>(record) * 2));
  }
  table.close();
  progress.finish();
}

void run_fake_model(const Options& o) {
  require_new_model(o.out, o.replace);
  const ModelConfig c = shape_of(o);
  const std::string tokenizer = tokenizer_of(o);
  const std::int64_t ids = Tokenizer::from_json(tokenizer, kTokenizerFile).vocab_size();
  if (ids > c.vocab)
    fail(ErrorCode::kUsage, "--vocab: expected at least the tokenizer's {} ids, found {}", ids, c.vocab);
  const double table_bytes = 2.0 * static_cast<double>(c.table_shape().size());
  require_disk_space(o.out, table_bytes);
  Model model(c, {DType::f32, DType::f32}, false);
  init_weights(model, o.seed);
  SaveOptions save;
  save.dtype = DType::bf16;
  save.more = [&](const fs::path& staged) {
    if (c.has_table()) write_random_table(staged, c, o.seed, o.json);
    if (fs::is_directory(o.like) && o.tokenizer.empty()) copy_tokenizer_config(o.like, staged);
  };
  const Manifest manifest = save_model_directory(o.out, model, tokenizer, {}, {}, save);
  if (o.json) {
    fmt::print("{}", dump_json({{"model", o.out},
                                {"uuid", uuid_text(manifest.uuid)},
                                {"table_bytes", table_bytes},
                                {"record_bytes", 2 * c.table_shape().record()},
                                {"config", config_to_json(c, "bfloat16")}}));
    return;
  }
  fmt::print("{}: random numbers in bf16; {} dense parameters, a table of {} ({} records of {})\n", o.out,
             count_text(account(c).dense_parameters), bytes_text(table_bytes), count_text(c.vocab),
             bytes_text(2.0 * static_cast<double>(c.table_shape().record())));
}

}  // namespace

void add_fake_model_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("fake-model", "make a model of random numbers in a real shape, to time tables with");
  command->footer(
      "It says nothing sensible. A table larger than memory is fine: it goes straight to disk.\n");
  command->add_option("out", o->out, "model directory to write")->required();
  command->add_option("--like", o->like, "model directory or config.json (ours or a Llama's) with the shape")
      ->required();
  command->add_option("--stem-layers", o->stem_layers, "third, half, full, all, none or a list such as 1,4")
      ->capture_default_str();
  command->add_option("--variant", o->variant, "stem, stem_gate or stem_additive")
      ->check(CLI::IsMember({"stem", "stem_gate", "stem_additive"}))
      ->capture_default_str();
  command->add_option("--vocab", o->vocab, "tokens of the vocabulary (default: the shape's own)")
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--tokenizer", o->tokenizer,
                      "tokenizer.json (default: that of the model --like, else one token a byte)");
  command->add_option("--seed", o->seed, "seed of the numbers")->check(is_seed())->capture_default_str();
  command->add_flag("--replace", o->replace, "in place of a model of this name");
  command->add_flag("--json", o->json, "what was made, as JSON");
  command->callback([o] { run_fake_model(*o); });
}

}  // namespace stem
