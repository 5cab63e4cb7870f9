// The training loop's state and one step of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "data/batches.h"
#include "model/forward.h"
#include "train/optimizer.h"

namespace stem {

struct TrainOptions {
  std::int64_t steps = 600;
  BatchOptions batch;
  double lr = 3e-3;          ///< backbone's peak
  double table_lr = 3e-3;    ///< tables' peak
  std::int64_t warmup = 30;  ///< steps
  double floor = 0.1;        ///< last learning rate as a share of the peak
  double decay = 0.1;        ///< backbone (none on norms)
  double table_decay = 0.0;
  double clip = 1.0, table_clip = 1.0;
  std::uint64_t seed = 1;  ///< weights; data order has BatchOptions::seed
};

struct StepReport {
  std::int64_t step = 0;  ///< 1-based
  double loss = 0.0;      ///< mean over targets, nats
  double lr = 0.0, table_lr = 0.0;
  StepNorms norms;
  std::int64_t tokens = 0, distinct = 0;
  double seconds = 0.0;
};

/// Trains one model on one shard. Everything that a resumed run needs is model, optimizer and `step`: data
/// order and learning rate are functions of the step.
class Trainer {
 public:
  Trainer(const Context& context, Model& model, const TokenShard& shard, const TrainOptions& options);

  /// One forward, backward, update. Throws kFormat when the loss is not finite, naming step and documents.
  StepReport step();

  std::int64_t steps_done() const { return step_; }
  const Optimizer& optimizer() const { return optimizer_; }
  /// Updates seen by each token's record [V] (row health).
  const std::vector<std::int64_t>& update_counts() const { return update_counts_; }

  /// optimizer.safetensors and train_state.json, into a staged checkpoint directory.
  void write_state(const std::filesystem::path& dir) const;
  /// Continues bit for bit where write_state left off; the model must hold the checkpoint's weights. Throws
  /// Error when the state belongs to another shape or other options.
  void read_state(const std::filesystem::path& dir);

 private:
  Context context_;
  Model& model_;
  TrainOptions options_;
  BatchStream stream_;
  Optimizer optimizer_;
  Gradients gradients_;
  std::int64_t step_ = 0;
  std::vector<std::int64_t> update_counts_;
};

/// Type of the GEMM inputs in the run that wrote a state. Throws Error when the state is damaged.
DType recorded_gemm_dtype(const std::filesystem::path& dir);

/// Mean loss in nats over all targets of `shard`, documents as segments, with the training kernels.
/// `rows` may replace the model's table (null: the model's own). `max_tokens` 0: all.
struct EvalResult {
  double loss = 0.0;
  std::int64_t targets = 0;
  double perplexity() const;
};
EvalResult evaluate_loss(const Context& context, const Model& model, const TokenShard& shard,
                         const BatchOptions& options, const Table* table = nullptr,
                         const Overlay* overlay = nullptr, std::int64_t max_tokens = 0);

}  // namespace stem
