// RMSNorm. y = x · (mean(x²) + eps)^-½ ⊙ weight.
// Heads of x [N, heads·A] may be normed one by one with one weight [1, A], as Qwen3 norms queries and keys.
#pragma once

#include "ops/context.h"

namespace stem {

/// x [N, D] wide, weight [1, D] wide, y [N, D] wide or narrow, inv_rms [1, N] wide (null: not kept).
void rms_norm_forward(const Context&, Out y, Out inv_rms, In x, In weight, double eps);

/// d_x [N, D] wide accumulates (it is the residual gradient); d_weight [1, D] wide accumulates (null:
/// skipped). With x̂ = x·inv_rms and g = d_y ⊙ weight:  d_x += inv_rms·(g − x̂·mean(g ⊙ x̂)),  d_weight += Σ_n
/// d_y ⊙ x̂. `copy` [N, D] of d_y's dtype receives the new d_x (null: skipped; it may be d_y itself): the next
/// product reads it.
void rms_norm_backward(const Context&, Out d_x, Out copy, Out d_weight, In d_y, In x, In weight, In inv_rms);

/// y [N, heads·A] = every head of x [N, heads·A] wide normed with weight [1, A] wide. inv_rms [heads, N] wide
/// (null: not kept).
void head_norm_forward(const Context&, Out y, Out inv_rms, In x, In weight, double eps);
/// As rms_norm_backward, head by head: d_x [N, heads·A] accumulates, d_weight [1, A] accumulates over heads.
void head_norm_backward(const Context&, Out d_x, Out copy, Out d_weight, In d_y, In x, In weight, In inv_rms);

}  // namespace stem
