// A model directory as a whole: manifest, tokenizer, weights, table (docs/formats/manifest.md).
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/runtime.h"
#include "edit/surgery.h"
#include "model/model_files.h"
#include "secure/manifest.h"
#include "text/tokenizer.h"

namespace stem {

inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kTokenizerConfigFile = "tokenizer_config.json";
inline constexpr const char* kTokenStatsFile = "token_stats.safetensors";
inline constexpr const char* kConversionFile = "conversion.json";

/// How often each token occurred in the training text, and the health of its record: how often it was
/// updated, its L2 norm and its L2 distance from where the run started. [V] each; norm and distance may be
/// empty.
struct TokenStats {
  std::vector<std::int64_t> frequency, updates;
  std::vector<float> norm = {}, distance = {};
};

struct LoadedModel {
  std::filesystem::path directory;
  Manifest manifest;
  Tokenizer tokenizer;
  Model model;
  TokenStats stats;  ///< empty when the directory has none
  std::optional<ReferenceRows> reference = {};

  SwapSource swap_source() const { return {model.table, reference ? &*reference : nullptr}; }
};

struct LoadOptions {
  bool table_in_memory = false;
  bool verify = true;                       ///< check every file's digest against the manifest
  std::optional<Precision> precision = {};  ///< as ReadOptions
  bool serving = false;                     ///< for inference alone: ReadOptions::serving
  TableOptions table = {};                  ///< as ReadOptions
  std::optional<DType> kv = {};             ///< Model::kv_dtype
};

/// Throws kNotFound where there is no directory, and says what is.
void require_model_directory(const std::filesystem::path& path);
/// config.json of a model directory or a checkpoint.
ModelConfig read_config(const std::filesystem::path& directory);

/// True where the tokenizers of two directories give every text the same ids, whatever they put before it.
bool same_ids(const std::filesystem::path& a, const std::filesystem::path& b);

/// Loads and checks a model directory (or a link to one). Throws Error: kNotFound without a manifest,
/// kIntegrity for a file whose digest is not the manifest's, kMismatch when tokenizer and model do not belong
/// together, kUsage for keys in int8 whose heads are no multiple of 32 wide.
LoadedModel load_model_directory(const std::filesystem::path& directory, const Context& context,
                                 const LoadOptions& options = {});

struct SaveOptions : WriteOptions {
  std::function<void(const std::filesystem::path&)> more = {};  ///< adds files to the staged directory
};

/// Writes a model directory whole or not at all, its manifest last. A zero uuid in `draft` is replaced by a
/// new one.
Manifest save_model_directory(const std::filesystem::path& directory, const Model& model,
                              const std::string& tokenizer_json, const TokenStats& stats,
                              const Manifest& draft, const SaveOptions& options = {});

/// Copies tokenizer_config.json (chat template, bos and eos) where `from` has one.
void copy_tokenizer_config(const std::filesystem::path& from, const std::filesystem::path& to);
/// Copies the reference rows where `from` has some: for a model that computes the same.
void copy_reference_rows(const std::filesystem::path& from, const std::filesystem::path& to);
/// Copies what a converted model was made of, where `from` is one.
void copy_conversion(const std::filesystem::path& from, const std::filesystem::path& to);

/// Where a run keeps what is not the model itself: "out/atlas" -> "out/atlas.run".
std::filesystem::path run_directory(const std::filesystem::path& model_directory);

}  // namespace stem
