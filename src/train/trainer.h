// The training loop's state and one step of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/batches.h"
#include "model/forward.h"
#include "train/evaluate.h"
#include "train/optimizer.h"
#include "train/spike.h"

namespace stem {

struct TrainOptions {
  std::int64_t steps = 600;
  BatchOptions batch;
  std::int64_t accumulate = 1;  ///< micro-batches that a step's batch is cut into
  double lr = 3e-3;             ///< backbone's peak
  double table_lr = 3e-3;       ///< tables' peak
  std::int64_t warmup = 30;     ///< steps
  double floor = 0.1;           ///< last learning rate as a share of the peak
  double decay = 0.1;           ///< backbone (none on norms)
  double table_decay = 0.0;
  double clip = 1.0, table_clip = 1.0;
  std::string table_optimizer = "lazy";  ///< lazy or exact
  std::string freeze;                    ///< patterns, see Freeze
  bool fixed_first = false;              ///< Gradients::fixed_first
  std::string teacher;                   ///< model directory whose predictions are the targets; empty: none
  double teacher_streams = 0;            ///< weight of the mean relative squared difference of the residual
                                         ///< streams from the teacher's (Activations::stream_loss)
  std::string on_spike = "continue";     ///< continue, stop, skip or rollback
  std::uint64_t seed = 1;                ///< weights; data order has BatchOptions::seed
  std::string data_digest;   ///< of the shard, hex; in the state, so that a run goes on with its own data
  std::string teacher_uuid;  ///< in the state for the same reason
};

struct StepReport {
  std::int64_t step = 0;  ///< 1-based
  /// Mean over targets, nats; 0 when there were none. Cross entropy, or with a teacher the divergence from
  /// it.
  double loss = 0.0;
  double stream_loss = 0.0;  ///< mean over positions, not in `loss`; 0 without TrainOptions::teacher_streams
  double lr = 0.0, table_lr = 0.0;
  StepNorms norms;
  std::int64_t tokens = 0, distinct = 0, targets = 0;
  RouterStats router;          ///< of the step's micro-batches, means over tokens; layers 0 without experts
  bool updated = false;        ///< no update is made without targets, and when a spike is skipped
  std::optional<Spike> spike;  ///< for `rollback` the caller calls Trainer::roll_back
  double seconds = 0.0;
};

/// A spike that ends the run; the state is still the one before the step.
class SpikeStop : public Error {
 public:
  SpikeStop(const StepReport& report, const std::string& message)
      : Error(ErrorCode::kFormat, message), report_(report) {}
  const StepReport& report() const { return report_; }

 private:
  StepReport report_;
};

/// Trains one model on one shard: to predict its next tokens, or what a teacher says in their place
/// (distillation; the loss of a target position is KL(teacher ‖ model) over the vocabulary; the way there may
/// be learnt too, where it has the same layers and width: TrainOptions::teacher_streams). Everything that
/// a resumed run needs is model, optimizer, `step` and the losses that spikes are measured by: data order and
/// learning rate are functions of the step.
class Trainer {
 public:
  /// Throws kUsage for settings that do not go together or match nothing in this model. `teacher`, when not
  /// null, has the model's vocabulary and wide type (with teacher_streams: layers and width, too), is not a
  /// served model, and outlives the trainer.
  Trainer(const Context& context, Model& model, const TokenShard& shard, const TrainOptions& options,
          const Model* teacher = nullptr);

  /// One forward, backward, update. The loss is judged before the update is made. Throws SpikeStop naming
  /// step, value and documents when the choice is to stop, after kMostSkips skipped steps in a row, and after
  /// kMostRollbacks.
  StepReport step();
  static constexpr std::int64_t kMostSkips = 20, kMostRollbacks = 10;

  std::int64_t steps_done() const { return step_; }
  const Optimizer& optimizer() const { return optimizer_; }
  /// Updates seen by each token's record [V] (row health).
  const std::vector<std::int64_t>& update_counts() const { return update_counts_; }

  /// Cross entropy on another text, with a teacher too, every record being as all updates have made it.
  /// Leaves the run's state alone.
  EvalResult evaluate(const TokenShard& shard) const;

  /// optimizer.safetensors and train_state.json, into a staged checkpoint directory. Records are stored raw:
  /// in mode `exact` those that are behind stay behind, so that a resumed run has the same bits.
  void write_state(const std::filesystem::path& dir) const;
  /// Continues bit for bit where write_state left off; the model must hold the checkpoint's weights. Throws
  /// Error when the state belongs to another shape or other options.
  void read_state(const std::filesystem::path& dir);
  /// After a step whose spike says `rollback`: reads the state of the checkpoint `dir`, whose weights the
  /// model must hold, and goes on behind the step that spiked: the batches in between are left out.
  void roll_back(const std::filesystem::path& dir);

 private:
  double accumulate(const Batch& part, const TokenGroups& groups, std::span<const float> weights,
                    double share, StepReport& report);
  void judge(StepReport& report, const Batch& batch);

  Context context_;
  Model& model_;
  const Model* teacher_ = nullptr;
  TrainOptions options_;
  OnSpike on_spike_;
  BatchStream stream_;
  Optimizer optimizer_;
  Gradients gradients_;
  SpikeWindow window_;
  std::int64_t step_ = 0;
  std::int64_t skipped_in_a_row_ = 0, rollbacks_ = 0;
  std::vector<std::int64_t> update_counts_;
};

/// Type of the GEMM inputs in the run that wrote a state. Throws Error when the state is damaged.
DType recorded_gemm_dtype(const std::filesystem::path& dir);

}  // namespace stem
