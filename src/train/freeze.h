// Which tensors of a model a run leaves as they are (fine-tuning).
#pragma once

#include <string>

#include "model/weights.h"

namespace stem {

/// Frozen tensors get no gradient, no update, no weight decay and no moments, and are left out of gradient
/// norms.
struct Freeze : FrozenTensors {
  Freeze() = default;
  /// `patterns`, separated by commas: `tables`, `dense` (everything else, an untied embedding included), or a
  /// glob (*, ?, […]) over tensor names as in the model's files, the table being "stem.table". A glob matches
  /// a whole name or what follows one of its dots: "embed*", "model.layers.0.*", "q_proj.weight". Throws
  /// kUsage naming `train.freeze` for a pattern that matches nothing, and when nothing is left to train.
  Freeze(const std::string& patterns, const ModelConfig& config);

  bool any_dense() const;
};

}  // namespace stem
