// A model's weights in the form in which a backend multiplies with them.
#pragma once

#include "model/model.h"
#include "model/weights_file.h"

namespace stem {

/// Packs the matrices of a file (all of them bf16 or smaller: WeightsFile::narrow; no mixtures of experts)
/// for the backend of `context`. Where projections that are multiplied together are stored in different
/// formats, all take the widest of them.
ServedWeights served_weights(const Context& context, const ModelConfig& config, const WeightsFile& file);

}  // namespace stem
