// AdamW over the flat dense weights and over the rows of the batch (stem-spec §3).
#pragma once

#include <cstdint>
#include <vector>

#include "model/forward.h"
#include "model/model.h"

namespace stem {

/// Hyper-parameters of one parameter group at one step.
struct GroupOptions {
  float lr = 1e-3f;
  float decay = 0.0f;  ///< decoupled weight decay
  float clip = 1.0f;   ///< largest global norm of the group's gradient; 0: no clipping
};

/// AdamW state of a row-sparse matrix [V, C]: m, v, and the step at which each record was last brought up to
/// date. Mode `lazy`: only the rows of the batch move; what SparseAdam does, plus decoupled decay.
struct RowState {
  Tensor m, v;                          // [V, C] wide
  std::vector<std::int64_t> last_step;  // [V], 0: never

  RowState() = default;
  RowState(DType dtype, std::int64_t vocab, std::int64_t cols);
};

/// What one step did.
struct StepNorms {
  double dense =
      0.0;  ///< global gradient norm of the backbone before clipping (an untied embedding's rows included)
  double table = 0.0;  ///< of the table
};

/// Optimizer state of a whole model.
class Optimizer {
 public:
  explicit Optimizer(const Model& model);

  /// One update at 1-based step `step` with gradients of this batch's distinct `tokens` [R]; refreshes
  /// model.compute.
  StepNorms update(const Context& ctx, Model& model, const Gradients& gradients,
                   std::span<const std::int32_t> tokens, std::int64_t step, const GroupOptions& dense,
                   const GroupOptions& table);

  DenseTensors m, v;   ///< wide, same layout as the weights
  RowState table;      ///< empty without STEM layers
  RowState embedding;  ///< empty when tied
};

/// Linear warm-up, then cosine to `floor` of the peak. `step` is 1-based.
double learning_rate(double peak, std::int64_t step, std::int64_t warmup, std::int64_t total,
                     double floor = 0.1);

}  // namespace stem
