// RMSNorm. y = x · (mean(x²) + eps)^-½ ⊙ weight.
#pragma once

#include "ops/context.h"

namespace stem {

/// x [N, D] wide, weight [1, D] wide, y [N, D] wide or narrow, inv_rms [1, N] wide (null: not kept).
void rms_norm_forward(const Context&, Out y, Out inv_rms, In x, In weight, double eps);

/// d_x [N, D] wide accumulates (it is the residual gradient); d_weight [1, D] wide accumulates (null:
/// skipped). With x̂ = x·inv_rms and g = d_y ⊙ weight:  d_x += inv_rms·(g − x̂·mean(g ⊙ x̂)),  d_weight += Σ_n
/// d_y ⊙ x̂. `copy` [N, D] of d_y's dtype receives the new d_x (null: skipped): the next product reads it.
void rms_norm_backward(const Context&, Out d_x, Out copy, Out d_weight, In d_y, In x, In weight, In inv_rms);

}  // namespace stem
