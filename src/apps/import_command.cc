// stem import: a model of another format becomes a model directory.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/model_directory.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "convert/import.h"
#include "core/error.h"
#include "io/file.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

struct ImportOptions {
  std::string source, out, tokenizer, dtype;
  bool replace = false, json = false;
};

void run_import(const ImportOptions& o) {
  require_new_model(o.out, o.replace);
  const ImportedModel imported = import_model(o.source, o.tokenizer);
  const DType dtype = o.dtype.empty() ? imported.stored : o.dtype == "f32" ? DType::f32 : DType::bf16;
  SaveOptions save;
  save.dtype = dtype;
  save.table_dtype = o.dtype.empty() ? imported.rows_stored : dtype;
  save.more = [&](const fs::path& staged) { imported.tokenizer.save(staged); };
  const Manifest manifest =
      save_model_directory(o.out, imported.model, imported.tokenizer.to_json(), {}, {}, save);
  const ModelConfig& c = imported.model.config;
  const std::int64_t parameters = account(c).dense_parameters;
  if (o.json) {
    fmt::print("{}",
               dump_json({{"model", o.out},
                          {"uuid", uuid_text(manifest.uuid)},
                          {"source", imported.source},
                          {"parameters", parameters},
                          {"dtype", name_of(dtype)},
                          {"config", config_to_json(c, dtype == DType::f32 ? "float32" : "bfloat16")}}));
    return;
  }
  fmt::print("{}: {} parameters in {} layers, stored as {}, from {} ({})\n", o.out, count_text(parameters),
             c.layers, name_of(dtype), o.source, imported.source);
  if (c.variant == FfnVariant::dense)
    fmt::print("It is dense: stem attach-rows {} --calibrate TEXT gives it rows to edit.\n", o.out);
}

}  // namespace

void add_import_command(CLI::App& app) {
  auto o = std::make_shared<ImportOptions>();
  CLI::App* command =
      app.add_subcommand("import", "make a model directory of a GGUF, Hugging Face or llama2.c model");
  command->footer(
      "Architectures: llama, qwen2, qwen3. Quantised GGUF weights are stored as the f32 values that they "
      "stand for.\n");
  command->add_option("source", o->source, "GGUF file, Hugging Face directory, or llama2.c checkpoint")
      ->required();
  command->add_option("out", o->out, "model directory to write")->required();
  command->add_option("--tokenizer", o->tokenizer, "tokenizer file of a llama2.c checkpoint");
  command->add_option("--dtype", o->dtype, "f32 or bf16 (default: what holds the values exactly)")
      ->check(CLI::IsMember({"f32", "bf16"}));
  command->add_flag("--replace", o->replace, "in place of a model of this name");
  command->add_flag("--json", o->json, "what was made, as JSON");
  command->callback([o] { run_import(*o); });
}

}  // namespace stem
