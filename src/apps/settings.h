// Settings: one list of keys drives TOML files, --set key=value, the echo in logs, and the suggestions for
// unknown keys.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/atlas_corpus.h"
#include "io/json.h"
#include "model/config.h"
#include "train/trainer.h"

namespace stem {

/// Everything that a training run can be told.
struct Settings {
  ModelConfig model;                  ///< vocab comes from the tokenizer
  std::string stem_layers = "third";  ///< third, half, full, all, none, or a list
  std::string variant = "stem";
  std::int64_t tokenizer_vocab = 8192;  ///< tokens to train a tokenizer to
  TrainOptions train;
  std::string precision = "auto";     ///< auto (a short calibration decides), f32, bf16
  std::int64_t eval_every = 100;      ///< steps; 0: only at the end
  std::int64_t checkpoint_every = 0;  ///< steps; 0: none
  std::int64_t keep_checkpoints = 2;
  std::string eval_shards;  ///< more texts to validate on: NAME=FILE, separated by commas
  AtlasOptions atlas;
  std::int64_t score_templates = 0;  ///< score only the first n templates; 0: all

  Settings();

  /// Applies a TOML file. Throws Error naming file, key (and the nearest known one), expected and found.
  void load_toml(const std::filesystem::path& path);
  /// Applies the settings.json of a run. Throws as load_toml.
  void load_json(const std::filesystem::path& path);
  /// Applies "section.key=value".
  void set(std::string_view assignment);
  /// Fills model.variant and model.stem_layers and checks the shape, for a vocabulary of `vocab` tokens.
  ModelConfig resolve_model(std::int64_t vocab) const;

  /// Takes model.* from a model to start from. Throws kMismatch for a key that was set to something else.
  void adopt_model(const ModelConfig& config, std::string_view source);

  Json to_json() const;       ///< {"section.key": value, …}
  static std::string help();  ///< one line a key with its default

 private:
  void assign(const std::string& key, const std::string& value, std::string_view source);
  std::set<std::string> assigned_;   // keys that somebody has set
  std::string source_ = "settings";  // the last file, for errors about the model's shape
};

}  // namespace stem
