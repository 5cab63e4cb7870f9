// The residual state of a text's first token, the same in every text.
#pragma once

#include <cstdint>

#include "convert/calibration_text.h"
#include "model/model.h"

namespace stem {

/// A start token stands first and sees only itself, so its state behind every layer is a constant of the
/// model. In many models it is a thousand times as large as any other and every position attends to it: the
/// least step of W_g or W_d off it ruins all predictions. Its row, F free values a layer, can make up for any
/// such step.
class FirstState {
 public:
  /// The states [L, D] that `model` gives the first token `start`.
  FirstState(const Context& context, const Model& model, std::int32_t start);

  /// Moves the start token's row of every STEM layer of `student` (of the same width and depth, its table
  /// writable, in f32) by the least step after which the state behind that layer is the one recorded.
  /// Returns the greatest relative error of a state that was found.
  double restore(const Context& context, Model& student) const;

 private:
  CalibrationText text_;  // the start token alone
  Tensor states_;
};

}  // namespace stem
