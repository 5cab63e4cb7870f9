// stem import, attach-rows: a model of another format becomes a model directory; a dense model gets rows.
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
  if (!o.replace) require_new_model(o.out);
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
    fmt::print("It is dense: stem attach-rows {} gives it rows to edit.\n", o.out);
}

struct AttachOptions {
  std::string model, out, layers = "all";
  bool replace = false;
};

std::vector<std::int64_t> layers_of(const std::string& choice, std::int64_t count) {
  if (choice != "all") return stem_layers_from(choice, count, "--layers");
  std::vector<std::int64_t> all(static_cast<std::size_t>(count));
  for (std::int64_t l = 0; l < count; ++l) all[static_cast<std::size_t>(l)] = l;
  return all;
}

// The weights stay the very files; only the configuration says that there are rows, and that all are zero.
void run_attach(const AttachOptions& o) {
  const fs::path from = o.model, to = o.out.empty() ? from : fs::path(o.out);
  if (!o.out.empty() && !o.replace) require_new_model(to);
  const Manifest before = verify_manifest(from);
  const std::string source = (from / kConfigFile).string();
  const Json json = parse_json(read_file(from / kConfigFile, 1 << 20), source);
  ModelConfig c = config_from_json(json, source);
  if (c.variant != FfnVariant::dense)
    fail(ErrorCode::kUsage, "{}: ffn_variant: expected dense (no rows yet), found {}", source,
         name_of(c.variant));
  c.variant = FfnVariant::stem_additive;
  c.stem_layers = layers_of(o.layers, c.layers);
  c.validate(source);

  StagedDirectory staged(to);
  for (const auto& [name, entry] : before.files) {
    fs::create_directories((staged.path() / name).parent_path());
    std::error_code refused;
    fs::create_hard_link(from / name, staged.path() / name, refused);
    if (refused) fs::copy_file(from / name, staged.path() / name);
  }
  fs::remove(staged.path() / kConfigFile);  // a link to the old one
  write_file_atomic(staged.path() / kConfigFile,
                    dump_json(config_to_json(c, get_string(json, "torch_dtype", source))));
  Manifest draft;
  draft.token_stats = before.token_stats;
  if (o.out.empty()) {
    draft.uuid = before.uuid;
    draft.model_version = before.model_version + 1;
  }
  write_manifest(staged.path(), draft);
  staged.commit();
  fmt::print("{}: rows of zeros for {} tokens in {} of {} layers; not one logit has changed\n", to.string(),
             count_text(c.vocab), c.stem_layers.size(), c.layers);
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

void add_attach_rows_command(CLI::App& app) {
  auto o = std::make_shared<AttachOptions>();
  CLI::App* command =
      app.add_subcommand("attach-rows", "give a dense model rows to edit: all zero, so nothing changes yet");
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("-o,--out", o->out,
                      "model directory to write (default: the model itself, one version on)");
  command->add_option("--layers", o->layers, "all, third, half, full or a list such as 0,4")
      ->capture_default_str();
  command->add_flag("--replace", o->replace, "in place of a model of the name --out");
  command->callback([o] { run_attach(*o); });
}

}  // namespace stem
