// stem quantize: a model whose weights take 4 or 8 bits, and what that cost.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/model_directory.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "data/text_source.h"
#include "inspect/divergence.h"
#include "io/file.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, out, weights = "int4", head = "int8", rows;
  std::vector<std::string> texts;
  std::int64_t tokens = 8192, sequence = 512;
  bool replace = false, json = false;
};

// Tokens of the texts, one document after the other, as many as asked for.
std::vector<std::int32_t> report_tokens(const Tokenizer& tokenizer, const Options& o) {
  std::vector<std::int32_t> tokens;
  for (const std::string& path : o.texts) {
    const TokenShard shard = tokenize(tokenizer, read_documents(path), "");
    tokens.insert(tokens.end(), shard.tokens.begin(), shard.tokens.end());
  }
  if (static_cast<std::int64_t>(tokens.size()) > o.tokens) tokens.resize(static_cast<std::size_t>(o.tokens));
  if (tokens.size() < 2)
    fail(ErrorCode::kUsage, "--report: expected a text of at least 2 tokens, found {}", tokens.size());
  return tokens;
}

Json divergence_json(const Divergence& d) {
  return {{"positions", d.positions},
          {"kl", d.kl},
          {"kl_standard_error", d.kl_deviation},
          {"kl_largest", d.kl_top},
          {"same_top_token", d.same_top},
          {"perplexity", d.perplexity()},
          {"base_perplexity", d.base_perplexity()}};
}

void print_divergence(const Divergence& d) {
  fmt::print("against the model it was made from, over {} tokens:\n", count_text(d.positions));
  fmt::print("  KL divergence  {:.5f} ± {:.5f} nats a token, at most {:.3f}\n", d.kl, d.kl_deviation,
             d.kl_top);
  fmt::print("  perplexity     {:.3f}, before {:.3f}\n", d.perplexity(), d.base_perplexity());
  fmt::print("  likeliest token the same in {:.2f} %\n", 100 * d.same_top);
}

void run_quantize(const Options& o) {
  require_new_model(o.out, o.replace, o.model);
  const WeightFormat weights = *weight_format(o.weights), head = *weight_format(o.head);
  Runtime runtime;
  LoadOptions masters;
  masters.precision = Precision{DType::f32, DType::f32};
  std::vector<std::int32_t> tokens;
  Manifest manifest;
  {
    const LoadedModel loaded = load_model_directory(o.model, runtime.inference(), masters);
    if (loaded.model.config.has_experts())
      fail(ErrorCode::kUsage, "{}: ffn_variant: expected a model without mixtures of experts, found {}",
           (fs::path(o.model) / kConfigFile).string(), name_of(loaded.model.config.variant));
    if (!o.texts.empty()) tokens = report_tokens(loaded.tokenizer, o);
    SaveOptions save;
    save.choose = [&](const std::string&, TensorKind kind) {
      return std::optional(kind == TensorKind::embedding ? head : weights);
    };
    save.more = [&](const fs::path& staged) {
      copy_tokenizer_config(o.model, staged);
      copy_reference_rows(o.model, staged);
      copy_conversion(o.model, staged);
    };
    const Table& table = loaded.model.table;
    if (table.present()) {
      save.table_dtype = table.dtype();
      save.table_rows = table.stored();
      if (!o.rows.empty()) save.table_rows = weight_format(o.rows);
      if (o.rows == "bf16") save.table_rows.reset(), save.table_dtype = DType::bf16;
    } else if (!o.rows.empty()) {
      fail(ErrorCode::kUsage, "--rows: expected a model with a stored table, found {} without", o.model);
    }
    Manifest draft;
    manifest =
        save_model_directory(o.out, loaded.model, loaded.tokenizer.to_json(), loaded.stats, draft, save);
  }
  const auto size = [](const std::string& dir) {
    return static_cast<double>(fs::file_size(fs::path(dir) / kWeightsFile));
  };
  Json result{{"model", o.out},       {"uuid", uuid_text(manifest.uuid)},
              {"weights", o.weights}, {"head", o.head},
              {"bytes", size(o.out)}, {"base_bytes", size(o.model)}};
  if (!o.json)
    fmt::print("{}: weights {} as {}, head {}; before {}\n", o.out, bytes_text(size(o.out)), o.weights,
               o.head, bytes_text(size(o.model)));
  if (!tokens.empty()) {
    LoadOptions serving;
    serving.serving = true;
    const LoadedModel base = load_model_directory(o.model, runtime.inference(), serving),
                      made = load_model_directory(o.out, runtime.inference(), serving);
    const std::int64_t sequence = std::min(o.sequence, base.model.config.max_positions);
    const Divergence d = compare_predictions(runtime.inference(), base.model, made.model, tokens, sequence);
    result["report"] = divergence_json(d);
    if (!o.json) print_divergence(d);
  }
  if (o.json) fmt::print("{}", dump_json(result));
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("quantize", "store a model's weights in 4 or 8 bits, for inference");
  command->footer(
      "int8: 8.5 bits a weight. int4: 4.5, the scales looked for. int4_f16: 5, GGUF's Q4_1. Such a model is "
      "read\n"
      "as it is stored by generate, chat, eval, bench; training it further starts from the rounded "
      "weights.\n");
  const auto formats = CLI::IsMember({"bf16", "int8", "int4", "int4_f16"});
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("-o,--out", o->out, "model directory to write")->required();
  command->add_option("--weights", o->weights, "bf16, int8, int4 or int4_f16")
      ->check(formats)
      ->capture_default_str();
  command->add_option("--head", o->head, "the same for the output head and the token embedding")
      ->check(formats)
      ->capture_default_str();
  command->add_option("--rows", o->rows, "the same for the table's rows (default: as they are)")
      ->check(formats);
  command->add_option("--report", o->texts, "text to compare the two models on; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--tokens", o->tokens, "of those texts, at most")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  command->add_option("--sequence", o->sequence, "tokens that are read together")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  command->add_flag("--replace", o->replace, "in place of a model of this name");
  command->add_flag("--json", o->json, "what was made, as JSON");
  command->callback([o] { run_quantize(*o); });
}

}  // namespace stem
