// The FFN of a layer that is a mixture of experts (hash_moe, moe), between its norm and the residual stream.
//
//   x += Σ_j w_j · down_e(SiLU(gate_e x̂) ⊙ up_e x̂),  e = the j-th expert of the position
//
// moe: the k largest of the router's logits, w their softmax. hash_moe: the token's fixed expert, w = 1. No
// assignment is dropped. The rows are sorted by expert, so that every expert is one product over consecutive
// rows.
#pragma once

#include "model/forward.h"

namespace stem {

/// Memory for one mixture layer over n positions, from ctx.workspace.
ExpertsSaved allocate_experts(const Context&, const Model&, std::int64_t n);

/// x [N, D] wide += the mixture of s.normed_ffn. Adds to `stats` (auxiliary losses and shares not in
/// inference).
void experts_forward(const Context&, const Model&, std::size_t layer, const TokenBatch&, Out x, LayerSaved& s,
                     RouterStats& stats);

/// d_normed [N, D] narrow overwrites, gradients of the weights accumulate; d_x [N, D] wide is the gradient of
/// what the forward added to. The auxiliary losses' gradients, times g.auxiliary_weight, are among them.
void experts_backward(const Context&, const Model&, std::size_t layer, Out d_normed, In d_x,
                      const LayerSaved& s, Gradients& g, RouterStats& stats);

}  // namespace stem
