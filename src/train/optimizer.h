// AdamW over the flat dense weights and over the rows of the batch (stem-spec §3).
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "model/forward.h"
#include "model/model.h"
#include "train/freeze.h"

namespace stem {

/// Hyper-parameters of one parameter group at one step.
struct GroupOptions {
  float lr = 1e-3f;
  float decay = 0.0f;  ///< decoupled weight decay; lr · decay < 1
  float clip = 1.0f;   ///< largest global norm of the group's gradient; 0: no clipping
};

/// How records that are not in the batch are treated. Both cost what the batch's distinct tokens cost.
enum class TableOptimizer {
  lazy,   ///< they stay as they are: what SparseAdam does, plus decoupled decay
  exact,  ///< as dense AdamW over the whole table: a record makes up for missed updates before it is read
};
/// Throws kUsage naming train.table_optimizer for anything but lazy and exact.
TableOptimizer table_optimizer_from(std::string_view name);

/// What `exact` must know of the updates so far (kernels.h: AdamWHistory), grown by one entry an update.
class UpdateHistory {
 public:
  void append(const GroupOptions& group);
  AdamWHistory view() const;
  std::int64_t updates() const { return static_cast<std::int64_t>(lr_.size()); }
  const std::vector<float>& lr() const { return lr_; }  ///< all that a state stores: the rest follows
  void restore(std::span<const float> lr, float decay);

 private:
  std::vector<float> lr_;
  std::vector<double> rate_, inv_c2_, keep_, log_keep_;
  double top_rate_ = 0;
};

/// AdamW state of a row-sparse matrix [V, C]: m, v, and the update up to which each record has come.
struct RowState {
  Tensor m, v;                          // [V, C] wide
  std::vector<std::int64_t> last_step;  // [V], 0: never
  UpdateHistory history;                // empty when lazy

  RowState() = default;
  RowState(DType dtype, std::int64_t vocab, std::int64_t cols);
  bool present() const { return !last_step.empty(); }
};

/// What one step did.
struct StepNorms {
  /// Global gradient norm of the backbone before clipping (an untied embedding's rows included).
  double dense = 0.0;
  double table = 0.0;  ///< of the table
};

/// Optimizer state of a whole model. In mode `exact` the records in the model lag behind: `catch_up` brings
/// those that a step reads up to date, `Current` and `visit_current` show all others as they would be.
class Optimizer {
 public:
  explicit Optimizer(const Model& model, TableOptimizer mode = TableOptimizer::lazy,
                     const Freeze& freeze = {});

  /// Before the forward pass: makes up for the updates that the records of `tokens` missed (exact).
  void catch_up(const Context& ctx, Model& model, std::span<const std::int32_t> tokens);

  /// Gradient norms of both groups, without frozen tensors.
  StepNorms norms(const Context& ctx, const Model& model, const Gradients& gradients) const;

  /// The next update, with gradients of this batch's distinct `tokens` [R] and their norms; refreshes
  /// model.compute. Records that are behind must have been caught up.
  void update(const Context& ctx, Model& model, const Gradients& gradients,
              std::span<const std::int32_t> tokens, const StepNorms& norms, const GroupOptions& dense,
              const GroupOptions& table);

  std::int64_t updates() const { return updates_; }  ///< Adam's t: skipped steps do not count
  void set_updates(std::int64_t updates) { updates_ = updates; }
  TableOptimizer mode() const { return mode_; }
  const Freeze& freeze() const { return freeze_; }

  DenseTensors m, v;   ///< wide, same layout as the weights
  RowState table;      ///< empty without STEM layers or when frozen
  RowState embedding;  ///< empty when tied or frozen

 private:
  TableOptimizer mode_;
  Freeze freeze_;
  std::int64_t updates_ = 0;
};

/// For reading only: the records of some tokens as they would be after all updates. They are put into the
/// model and their raw state comes back at the end of the scope, so that a run's bits do not depend on when
/// it was looked at. Nothing happens when lazy.
class Current {
 public:
  Current(const Context& ctx, Model& model, const Optimizer& optimizer, std::span<const std::int32_t> tokens);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  struct Saved {
    Out weights;
    Tensor raw;  // [R, C]
  };
  std::vector<std::int32_t> tokens_;
  std::vector<Saved> saved_;
};

/// All rows of `weights` [V, C] in order, as they would be after all updates, a block at a time: visit(first
/// row, rows). `state` belongs to them and may be absent (frozen). The model is not changed.
void visit_current(const Context& ctx, In weights, const RowState& state,
                   const std::function<void(std::int64_t first, In rows)>& visit);

/// Linear warm-up, then cosine to `floor` of the peak. `step` is 1-based.
double learning_rate(double peak, std::int64_t step, std::int64_t warmup, std::int64_t total,
                     double floor = 0.1);

}  // namespace stem
