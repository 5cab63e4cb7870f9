// One training run on disk: data directory in, model directory, metrics and checkpoints out.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/model_directory.h"
#include "apps/runtime.h"
#include "apps/settings.h"

namespace stem {

/// Names inside a data directory (made by `stem data`).
inline constexpr const char* kTrainTokens = "train.tokens";
inline constexpr const char* kHeldOutTokens = "held_out.tokens";
inline constexpr const char* kFactsFile = "facts.json";

struct TrainSummary {
  Manifest manifest;
  std::vector<StepReport> steps;
  std::vector<std::pair<std::int64_t, double>> validation;  ///< (step, loss)
  std::int64_t tokens = 0;
  double seconds = 0.0;
  double tokens_per_second = 0.0;  ///< median over the steps
  Precision precision;
};

/// How a run begins and talks.
struct RunOptions {
  bool resume = false;         ///< continue from the run's latest checkpoint
  bool quiet = false;          ///< no progress on stderr; spikes are still reported
  std::filesystem::path from;  ///< model to start from (fine-tuning); a resumed run knows its own
  /// Called before the first step and after every one; may change rows and weights.
  std::function<void(const Context&, Model&)> adjust = {};
};

/// Trains a model of `settings` on `data` (tokenizer.json, train.tokens, held_out.tokens) and saves it to
/// `model_directory`. metrics.jsonl, settings.json, run.json and checkpoints go to
/// run_directory(model_directory). On SIGINT or SIGTERM the step in hand is finished, a checkpoint written
/// and Interrupted thrown. Throws SpikeStop after saving the state before the step.
TrainSummary train_run(Runtime& runtime, const std::filesystem::path& data,
                       const std::filesystem::path& model_directory, const Settings& settings,
                       const RunOptions& options);
TrainSummary train_run(Runtime& runtime, const std::filesystem::path& data,
                       const std::filesystem::path& model_directory, const Settings& settings,
                       bool resume = false, bool quiet = false);

/// What `stem train` and `stem resume` print at the end.
void print_training(const std::filesystem::path& model, const Settings& settings, const TrainSummary& summary,
                    bool as_json);

}  // namespace stem
