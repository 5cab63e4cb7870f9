// Mixtures of experts: routing, the order of rows by expert, and the movement of rows. The experts themselves
// are products on slices of the sorted rows (ops/linear.h, ops/glu.h).
//
// The auxiliary losses of a router, means over the N positions of the batch, ignored targets included:
//  * balance: E·Σ_i f_i P_i. f_i is the share of expert i in the N·k assignments (Σ f = 1), a constant for
//  the
//    gradient; P_i is the mean over positions of the full softmax's probability. 1 when the load is uniform.
//    Source: Fedus et al., Switch Transformers, arXiv 2101.03961, eq. 4-6, with k assignments a position.
//  * z: mean of (log Σ exp logits)². Source: Zoph et al., ST-MoE, arXiv 2202.08906, eq. 5.
#pragma once

#include "ops/context.h"

namespace stem {

/// Rows of an expert are padded to a multiple of this in training: whole tiles, and few different shapes, for
/// which GEMM libraries keep compiled code. Inference pads nothing.
inline constexpr std::int64_t kExpertAlignment = 16;

/// Memory of a dispatch of N positions to k of E experts, from ctx.workspace; the arrays are not filled.
Dispatch allocate_dispatch(const Context&, std::int64_t positions, std::int64_t chosen, std::int64_t experts);
/// Most rows that the experts' matrices can have, padding included.
std::int64_t max_dispatch_rows(const Context&, std::int64_t positions, std::int64_t chosen,
                               std::int64_t experts);
/// Fills slots, rows, offsets and counts from `expert`: a counting sort, stable, so that every expert reads
/// its positions in ascending order.
void sort_by_expert(const Context&, Dispatch& dispatch);

/// From logits [N, E]: probabilities [N, E] = softmax, lse [1, N], mix [N, k] = softmax over the k largest,
/// and dispatch.expert = those k (the lower id where logits are equal). All wide.
void route_forward(const Context&, Out probabilities, Out lse, Out mix, Dispatch& dispatch, In logits);
/// Auxiliary losses without coefficients, and the entropy of routing. After sort_by_expert.
RouterSums router_sums(const Context&, In probabilities, In lse, const Dispatch& dispatch);
/// d_logits [N, E] (overwrites) of ⟨mix, d_mix⟩ + balance·(balance loss) + z·(z loss).
void route_backward(const Context&, Out d_logits, In d_mix, In mix, In probabilities, In lse,
                    const Dispatch& dispatch, double balance, double z);

/// rows [M, D] = x [N, D] in the order of the experts; padding is zero. One dtype.
void dispatch_forward(const Context&, Out rows, In x, const Dispatch& dispatch);
/// d_x [N, D] += the sum of each position's k rows of d_rows [M, D]. Accumulates.
void dispatch_backward(const Context&, Out d_x, In d_rows, const Dispatch& dispatch);

/// x [N, D] += Σ_j mix[n, j] · rows[slot (n, j)]: how experts land on the residual stream. mix null: ones.
void combine_forward(const Context&, Out x, In rows, In mix, const Dispatch& dispatch);
/// d_rows [M, D] and d_mix [N, k] (skipped when null) overwrite. d_x [N, D] wide, rows and d_rows of one
/// dtype.
void combine_backward(const Context&, Out d_rows, Out d_mix, In d_x, In rows, In mix,
                      const Dispatch& dispatch);

/// The expert of a token in hash_moe: a fixed map, uniform over 0 .. experts-1, the same in every layer.
/// Source: Roller et al., Hash Layers, arXiv 2106.04426 (random hash); here Philox at (seed, token).
std::int32_t hash_expert(std::int64_t seed, std::int32_t token, std::int64_t experts);

}  // namespace stem
