#include "apps/model_directory.h"

#include <cstring>

#include "io/file.h"
#include "io/safetensors.h"

namespace stem {
namespace {

TokenStats read_stats(const std::filesystem::path& path, std::int64_t vocab) {
  TokenStats stats;
  const Safetensors file = Safetensors::open(path);
  const std::int64_t shape[] = {vocab};
  const auto read = [&]<class T>(const char* name, DType dtype, std::vector<T>& into) {
    const TensorInfo& info = file.expect(name, dtype, shape);
    into.resize(static_cast<std::size_t>(vocab));
    std::memcpy(into.data(), file.data(info), info.bytes);
  };
  read("frequency", DType::i64, stats.frequency);
  read("updates", DType::i64, stats.updates);
  if (file.has("norm")) read("norm", DType::f32, stats.norm);
  if (file.has("distance")) read("distance", DType::f32, stats.distance);
  return stats;
}

void copy_if_there(const std::filesystem::path& from, const std::filesystem::path& to, const char* name) {
  namespace fs = std::filesystem;
  if (fs::exists(from / name)) fs::copy_file(from / name, to / name, fs::copy_options::overwrite_existing);
}

}  // namespace

void require_model_directory(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return;
  fail(
      ErrorCode::kNotFound, "{}: expected a model directory, found {}", path.string(),
      std::filesystem::exists(path) ? "a file (stem import makes a directory of others' models)" : "nothing");
}

ModelConfig read_config(const std::filesystem::path& directory) {
  require_model_directory(directory);
  const std::string path = (directory / kConfigFile).string();
  return config_from_json(parse_json(read_file(path, 1 << 20), path), path);
}

bool same_ids(const std::filesystem::path& a, const std::filesystem::path& b) {
  return read_file(a / kTokenizerFile) == read_file(b / kTokenizerFile) ||
         Tokenizer::load(a / kTokenizerFile).same_ids(Tokenizer::load(b / kTokenizerFile));
}

LoadedModel load_model_directory(const std::filesystem::path& directory, const Context& context,
                                 const LoadOptions& options) {
  require_model_directory(directory);
  LoadedModel loaded{directory,
                     options.verify ? verify_manifest(directory) : read_manifest(directory),
                     Tokenizer::load(directory / kTokenizerFile),
                     read_model_files(directory, {options.precision, options.table_in_memory,
                                                  options.serving ? &context : nullptr, options.table}),
                     {}};
  const ModelConfig& config = loaded.model.config;
  if (loaded.tokenizer.vocab_size() > config.vocab) {
    fail(ErrorCode::kMismatch,
         "{}: expected ids below vocab_size = {} of config.json, found {}: tokenizer and model do not belong "
         "together",
         (directory / kTokenizerFile).string(), config.vocab, loaded.tokenizer.vocab_size() - 1);
  }
  if (options.kv == DType::i8 && config.head_width % kWeightGroup != 0) {
    fail(ErrorCode::kUsage,
         "{}: --kv int8: expected heads whose width is a multiple of {}, found head_dim = {}",
         (directory / "config.json").string(), kWeightGroup, config.head_width);
  }
  loaded.model.kv_dtype = options.kv;
  if (loaded.manifest.token_stats)
    loaded.stats = read_stats(directory / *loaded.manifest.token_stats, config.vocab);
  loaded.reference = open_reference_rows(directory, config);
  if (!loaded.model.served) loaded.model.refresh_compute(context);
  return loaded;
}

Manifest save_model_directory(const std::filesystem::path& directory, const Model& model,
                              const std::string& tokenizer_json, const TokenStats& stats,
                              const Manifest& draft, const SaveOptions& options) {
  StagedDirectory staged(directory);
  write_model_files(staged.path(), model, options);
  write_file_atomic(staged.file(kTokenizerFile), tokenizer_json);
  Manifest manifest = draft;
  manifest.files.clear();
  if (!stats.frequency.empty()) {
    const auto vocab = static_cast<std::int64_t>(stats.frequency.size());
    std::vector<TensorSpec> specs{{"frequency", DType::i64, {vocab}}, {"updates", DType::i64, {vocab}}};
    if (!stats.norm.empty()) specs.push_back({"norm", DType::f32, {vocab}});
    if (!stats.distance.empty()) specs.push_back({"distance", DType::f32, {vocab}});
    SafetensorsWriter writer(staged.file(kTokenStatsFile), specs);
    writer.write("frequency", stats.frequency.data(), stats.frequency.size() * sizeof(std::int64_t));
    writer.write("updates", stats.updates.data(), stats.updates.size() * sizeof(std::int64_t));
    if (!stats.norm.empty()) writer.write("norm", stats.norm.data(), stats.norm.size() * sizeof(float));
    if (!stats.distance.empty())
      writer.write("distance", stats.distance.data(), stats.distance.size() * sizeof(float));
    writer.close();
    manifest.token_stats = kTokenStatsFile;
  }
  if (options.more) options.more(staged.path());
  manifest = write_manifest(staged.path(), manifest);  // last: a directory without it is not a model
  staged.commit();
  return manifest;
}

void copy_tokenizer_config(const std::filesystem::path& from, const std::filesystem::path& to) {
  copy_if_there(from, to, kTokenizerConfigFile);
}

void copy_reference_rows(const std::filesystem::path& from, const std::filesystem::path& to) {
  copy_if_there(from, to, kReferenceFile);
}

void copy_conversion(const std::filesystem::path& from, const std::filesystem::path& to) {
  copy_if_there(from, to, kConversionFile);
}

std::filesystem::path run_directory(const std::filesystem::path& model_directory) {
  std::filesystem::path run = model_directory;
  if (run.filename().empty()) run = run.parent_path();
  run += ".run";
  return run;
}

}  // namespace stem
