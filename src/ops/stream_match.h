// How far a model's residual stream is from its teacher's: a second thing to learn of it besides what it
// says.
#pragma once

#include <span>

#include "ops/context.h"

namespace stem {

/// loss [1, N] wide: |x[n] − to[n]|² / |to[n]|², x and to [N, D] wide; 0 where to[n] is zero. d_x [N, D] wide
/// accumulates the gradient of Σ weights[n]·loss[n]; `copy` [N, D] narrow receives the new d_x, as in
/// rms_norm_backward (null: skipped).
void match_stream(const Context&, Out loss, Out d_x, Out copy, In x, In to, std::span<const float> weights);

}  // namespace stem
