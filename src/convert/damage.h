// What turning one layer of a dense model into a STEM layer would cost, each layer alone.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "convert/calibration_text.h"
#include "model/model.h"

namespace stem {

struct LayerDamage {
  std::int64_t layer = 0;
  double damage = 0;     ///< nats a token that the loss of the held-out text rises by
  double ffn_error = 0;  ///< mean over its positions of |y' − y|² / |y|², y what the layer's FFN adds
};

/// Layer after layer: rows from `calibration` (calibration by the dense model's own activations, no refit),
/// judged on `held_out`. For layers below known.size() the figures are taken from `known`. `done` sees each
/// new figure. Both texts' streams and one layer's sums are in memory.
std::vector<LayerDamage> measure_damage(const Context& context, const Model& dense,
                                        const CalibrationText& calibration, const CalibrationText& held_out,
                                        const std::vector<LayerDamage>& known,
                                        const std::function<void(const LayerDamage&)>& done);

/// The `count` layers of least damage, ascending.
std::vector<std::int64_t> least_damaged(const std::vector<LayerDamage>& damage, std::int64_t count);

}  // namespace stem
