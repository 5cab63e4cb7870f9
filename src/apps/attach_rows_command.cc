// stem attach-rows: a dense model gets rows to edit, and what swaps of them go by.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/convert_texts.h"
#include "apps/model_directory.h"
#include "apps/option_checks.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "apps/runtime.h"
#include "convert/reference_calibration.h"
#include "core/error.h"
#include "io/file.h"
#include "ops/linear.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

struct AttachOptions {
  std::string model, out, layers;
  std::vector<std::string> calibrate;
  std::int64_t tokens = 131'072, sequence = 512;
  double prior = 4.0;
  bool replace = false, json = false;
};

std::vector<std::int64_t> layers_of(const std::string& choice, std::int64_t count) {
  return stem_layers_from(choice, count, "--layers", 0);
}

// The configuration with rows: those asked for, or those that the model already has, to be calibrated.
ModelConfig with_rows(ModelConfig c, const AttachOptions& o, const std::string& source) {
  const bool calibrate = !o.calibrate.empty();
  if (c.variant == FfnVariant::stem_additive && calibrate) {
    if (!o.layers.empty() && layers_of(o.layers, c.layers) != c.stem_layers)
      fail(ErrorCode::kUsage, "--layers: expected {}, which this model's rows are in, found {}",
           fmt::join(c.stem_layers, ","), o.layers);
    return c;
  }
  if (c.variant != FfnVariant::dense)
    fail(ErrorCode::kUsage, "{}: ffn_variant: expected dense (no rows yet), found {}", source,
         name_of(c.variant));
  c.variant = FfnVariant::stem_additive;
  c.stem_layers = layers_of(!o.layers.empty() ? o.layers : calibrate ? "0" : "all", c.layers);
  c.validate("--layers");
  return c;
}

// Reference rows, written as they are made.
struct Reference {
  LoadedModel loaded;
  CalibrationText text;
  Json sources;
  std::unique_ptr<ReferenceCalibration> calibration;
};

std::unique_ptr<Reference> calibrate(const Context& context, const AttachOptions& o, const ModelConfig& c) {
  const std::int64_t sequence = std::min(o.sequence, c.max_positions);
  LoadOptions options;
  options.precision = training_precision("auto", c, 8 * sequence);
  LoadedModel loaded = load_model_directory(o.model, context, options);
  if (loaded.model.config.variant == FfnVariant::dense) loaded.model.table = Table::absent(c.table_shape());
  loaded.model.config = c;  // dense and stem_additive have the same weights
  Json sources;
  CalibrationText text =
      calibration_text(loaded.tokenizer, c.vocab, o.calibrate, sequence, o.tokens, sources);
  auto reference =
      std::make_unique<Reference>(Reference{std::move(loaded), std::move(text), sources, nullptr});
  Progress progress("calibrating", c.stem_layers.back() + 1, o.json);
  reference->calibration = std::make_unique<ReferenceCalibration>(
      context, reference->loaded.model, reference->text,
      [&](std::int64_t l) { progress.update(l + 1, fmt::format("layer {}", l)); });
  return reference;
}

void write_reference(const Context& context, const Reference& reference, const AttachOptions& o,
                     const fs::path& to) {
  const ModelConfig& c = reference.loaded.model.config;
  std::vector<std::int64_t> occurrences(static_cast<std::size_t>(c.vocab), 0);
  for (const std::int32_t token : reference.text.tokens()) ++occurrences[static_cast<std::size_t>(token)];
  ReferenceRowsWriter writer(to, c.table_shape(), std::move(occurrences));
  constexpr std::int64_t kPiece = 2048;
  std::vector<std::int32_t> tokens;
  for (std::int64_t first = 0; first < c.vocab; first += kPiece) {
    tokens.clear();
    for (std::int64_t t = first; t < std::min(first + kPiece, c.vocab); ++t)
      tokens.push_back(static_cast<std::int32_t>(t));
    const Workspace::Scope scope(*context.workspace);
    const Out records = context.workspace->matrix(DType::f32, std::ssize(tokens), c.table_shape().record());
    reference.calibration->records(context, tokens, o.prior, records);
    writer.write(as_type(context, records, DType::bf16));
  }
  writer.close();
}

// The weights stay the very files; only the configuration says that there are rows, and that all are zero.
void run_attach(const AttachOptions& o) {
  const fs::path from = o.model, to = o.out.empty() ? from : fs::path(o.out);
  if (!o.out.empty()) require_new_model(to, o.replace);
  require_model_directory(from);
  const Manifest before = verify_manifest(from);
  const std::string source = (from / kConfigFile).string();
  const Json json = parse_json(read_file(source, 1 << 20), source);
  const ModelConfig c = with_rows(config_from_json(json, source), o, source);
  Runtime runtime;
  const Context context = runtime.training();
  const bool recalibrated = !o.calibrate.empty() && before.files.contains(kReferenceFile);
  std::unique_ptr<Reference> reference;
  if (!o.calibrate.empty()) {
    require_disk_space(to, 2.0 * static_cast<double>(c.table_shape().size()));
    reference = calibrate(context, o, c);
  }

  StagedDirectory staged(to);
  for (const auto& [name, entry] : before.files) {
    if (name == kConfigFile || name == kReferenceFile) continue;
    fs::create_directories((staged.path() / name).parent_path());
    std::error_code refused;
    fs::create_hard_link(from / name, staged.path() / name, refused);
    if (refused) fs::copy_file(from / name, staged.path() / name);
  }
  write_file_atomic(staged.path() / kConfigFile,
                    dump_json(config_to_json(c, get_string(json, "torch_dtype", source))));
  if (reference) write_reference(context, *reference, o, staged.path());
  Manifest draft;
  draft.token_stats = before.token_stats;
  if (o.out.empty()) {
    draft.uuid = before.uuid;
    draft.model_version = before.model_version + 1;
  }
  const Manifest made = write_manifest(staged.path(), draft);
  staged.commit();

  Json result{
      {"model", to.string()}, {"uuid", uuid_text(made.uuid)}, {"layers", c.stem_layers}, {"vocab", c.vocab}};
  if (reference)
    result.update({{"texts", reference->sources},
                   {"calibration_tokens", reference->text.size()},  // with start tokens
                   {"distinct_tokens", std::ssize(reference->text.distinct())}});
  if (o.json) {
    fmt::print("{}", dump_json(result));
    return;
  }
  fmt::print("{}: rows{} for {} tokens in {} of {} layers; not one logit has changed\n", to.string(),
             before.files.contains(kTableFile) ? "" : " of zeros", count_text(c.vocab), c.stem_layers.size(),
             c.layers);
  if (!reference) return;
  if (recalibrated)
    fmt::print("the reference rows before are replaced: patches made by them stay as they are\n");
  fmt::print(
      "reference rows, which swaps go by: from {} tokens of text; {} of the vocabulary's {} never occur "
      "there and "
      "have a guess from their embedding\n",
      count_text(reference->text.size()), count_text(c.vocab - std::ssize(reference->text.distinct())),
      count_text(c.vocab));
  if (c.stem_layers.front() == 0)
    fmt::print(
        "note: layer 0 adds what is nearly a second embedding: a swap there is close to another word inside "
        "the model\n");
}

}  // namespace

void add_attach_rows_command(CLI::App& app) {
  auto o = std::make_shared<AttachOptions>();
  CLI::App* command =
      app.add_subcommand("attach-rows", "give a dense model rows to edit: all zero, so nothing changes yet");
  command->footer(
      "Rows are added to the up-projection. With --calibrate the model also gets reference rows, what that\n"
      "projection gives each token on average over a text, and stem edit swap goes by their differences.\n");
  command->add_option("model", o->model, "model directory")->required();
  command
      ->add_option("-o,--out", o->out, "model directory to write (default: the model itself, one version on)")
      ->check(not_empty());
  command
      ->add_option(
          "--layers", o->layers,
          "all, third, half, full or a list such as 0,4 (default: all; with --calibrate 0, which carries a "
          "swap's effect)")
      ->check(not_empty());
  command
      ->add_option("--calibrate", o->calibrate,
                   "text, JSONL or folder to take reference rows from; may be repeated")
      ->check(not_empty())
      ->allow_extra_args(false);
  command->add_option("--tokens", o->tokens, "tokens to calibrate on, at most")
      ->check(CLI::Range(std::int64_t{64}, std::int64_t{1} << 32))
      ->capture_default_str();
  command->add_option("--sequence", o->sequence, "tokens that are read together")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--prior", o->prior,
                   "occurrences that the guess from a token's embedding counts as in its mean")
      ->check(number_in(0.0, 1e6))
      ->capture_default_str();
  command->add_flag("--replace", o->replace, "in place of a model of the name --out");
  command->add_flag("--json", o->json, "what was made, as JSON");
  command->callback([o] { run_attach(*o); });
}

}  // namespace stem
