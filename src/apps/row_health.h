// Row health: how large each token's record is and how far it has come from where its run started.
#pragma once

#include <filesystem>
#include <memory>
#include <span>

#include "apps/model_directory.h"
#include "train/optimizer.h"

namespace stem {

/// The table before training, one record at a time: drawn again from the seed, or read from the model that
/// the run started from. No second table is held.
class InitialRecords {
 public:
  InitialRecords(const ModelConfig& config, std::uint64_t seed);
  /// Of the model directory `from`; throws Error when its table cannot be read or has another shape.
  InitialRecords(const ModelConfig& config, const std::filesystem::path& from);

  /// record [S·F] of `token`, as init_table would make it or as the file holds it. Thread safe.
  void read(std::int64_t token, std::span<float> record) const;

 private:
  ModelConfig config_;
  std::uint64_t seed_ = 0;
  std::unique_ptr<Table> table_;  // null: from the seed
};

/// Fills stats.norm and, when `initial` is given, stats.distance from every record as all updates have made
/// it. `only_updated`: a record without an update has not moved at all (no decay has reached it), which saves
/// drawing it again. Nothing without a table.
void measure_rows(const Context& ctx, const Model& model, const Optimizer& optimizer,
                  const InitialRecords* initial, bool only_updated, TokenStats& stats);

/// Overwrites the rows in `dir`, where write_model_files has just put the raw ones as f32, by the rows as all
/// updates have made them (mode `exact`). The run's own state and memory stay as they are.
void write_current_rows(const std::filesystem::path& dir, const Context& ctx, const Model& model,
                        const Optimizer& optimizer);

}  // namespace stem
