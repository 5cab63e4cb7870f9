// The contract between ops and backends: structs of function pointers, one per op family. Nothing here
// computes.
//
// Conventions, stated once:
//  * Matrices are row-major views (core/view.h). "wide" is f32 (f64 in the oracle): residual stream, norms,
//  softmax,
//    loss, gradients of parameters. "narrow" is the GEMM's input type: bf16 or f32 (f64 in the oracle).
//  * Every backend accepts f32 throughout, and narrow = bf16 with wide = f32. `reference` also takes f64
//  throughout.
//  * Parameter gradients accumulate (+=), activation gradients overwrite (=), the residual gradient
//  accumulates.
//  * Results are deterministic at a fixed thread count. No atomics on floats.
//  * Shapes were checked by the op that calls; kernels may assume them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/batch.h"
#include "core/rows.h"
#include "core/view.h"
#include "core/weight_format.h"

namespace stem {

/// One product c = add + op(a) · op(b) of a group.
struct GemmCall {
  Out c;
  In a;
  bool transpose_a = false;
  In b;
  bool transpose_b = false;
  In add;
};

struct GemmKernels {
  /// c = add + op(a) · op(b); a null `add` is zeros, and it may be c itself. op is transposition when the
  /// flag is set. a and b have one dtype (bf16, f32, f64); c is that dtype or wide, add has c's. Accumulation
  /// in f32 (f64).
  void (*gemm)(Out c, In a, bool transpose_a, In b, bool transpose_b, In add);

  /// Independent products, as gemm one by one: for those too small to be shared between threads each by
  /// itself.
  void (*gemm_group)(std::span<const GemmCall> calls);

  /// gemm with one b for several products: bytes of b's packed form (0: the backend has none for this dtype,
  /// call gemm), packing into 64-byte aligned memory, and the product, which reads of b only its shape. The
  /// bits are gemm's.
  std::size_t (*packed_bytes)(In b, bool transpose_b);
  void (*pack)(void* packed, In b, bool transpose_b);
  void (*gemm_packed)(Out c, In a, bool transpose_a, In b, bool transpose_b, const void* packed, In add);

  /// y = x · wᵀ (+= when `accumulate`) for inference: each element of y has one summation order, whatever the
  /// number of rows in x, the chunking or the thread count. x [M, I] and w [O, I] may differ in dtype (f32,
  /// bf16); y wide or narrow.
  void (*linear_invariant)(Out y, In x, In w, bool accumulate);
};

/// A matrix [rows, cols] as ServedKernels::pack left it: in the order in which this backend reads it.
struct ServedMatrix {
  WeightFormat format = WeightFormat::bf16;
  std::int64_t rows = 0, cols = 0;
  const void* data = nullptr;  ///< 64-byte aligned

  explicit operator bool() const { return data != nullptr; }
};

/// Weights for inference in the formats of core/weight_format.h. Each element of a result has one summation
/// order, whatever the number of rows in x, the chunking or the thread count. x and y are f32 (f64 in the
/// oracle).
///  * bf16: x is rounded to bf16 where the machine multiplies bf16, sums in f32.
///  * integers: x is rounded to int8 in groups of 32 (quantise_activations); the sums within a group are
///    exact, those over groups in f32: group by group (s_x,g · Σ q q_x) · s_w,g, then (s_x,g · Σ q_x) ·
///    offset_w,g.
struct ServedKernels {
  std::size_t (*bytes)(WeightFormat format, std::int64_t rows, std::int64_t cols);
  /// Writes the packed form of `from` to `to`, 64-byte aligned.
  void (*pack)(void* to, const StoredMatrix& from);
  /// y [M, rows] = x [M, cols] · wᵀ (+= when `accumulate`).
  void (*linear)(Out y, In x, const ServedMatrix& w, bool accumulate);
  /// x [N, cols] = the rows `ids` of w: a token embedding.
  void (*gather)(Out x, const ServedMatrix& w, std::span<const std::int32_t> ids);
};

struct NormKernels {
  /// y = x · inv_rms ⊙ weight, inv_rms = (mean(x²) + eps)^-½.  x [N, D] wide, y [N, D] wide or narrow,
  /// weight [1, D] wide, inv_rms [1, N] wide (may be null).
  void (*rms_norm_forward)(Out y, Out inv_rms, In x, In weight, double eps);

  /// d_x += …, d_weight += …  d_y [N, D] wide or narrow; d_weight may be null. `copy`, when given, has d_y's
  /// dtype and receives the new d_x; it may be d_y itself.
  void (*rms_norm_backward)(Out d_x, Out copy, Out d_weight, In d_y, In x, In weight, In inv_rms);
};

struct BiasKernels {
  /// y [N, D] += bias [1, D] in every row. y narrow or wide, bias wide.
  void (*add_bias)(Out y, In bias);
  /// d_bias [1, D] wide += Σ_n d_y[n]. d_y narrow or wide.
  void (*add_bias_backward)(Out d_bias, In d_y);
};

struct RopeKernels {
  /// Rotates every head of x [N, heads·A] in place: pairs (i, i + A/2), angle positions[n] · theta^(-2i/A),
  /// as Llama's rotate_half. cos_sin [max_position, A]: A/2 cosines, then A/2 sines, wide. `inverse` rotates
  /// back (the backward).
  void (*rope)(Out x, std::int64_t heads, In cos_sin, std::span<const std::int32_t> positions, bool inverse);
};

struct AttentionKernels {
  /// y = softmax(q kᵀ / √A, causal within each segment) v.  q, y [N, H·A]; k, v [M, K·A]; all narrow.
  /// lse [N, H] wide: log Σ exp of the scaled scores (may be null). Memory per thread is O(block), never [T,
  /// T].
  void (*attention_forward)(Out y, Out lse, In q, In k, In v, Heads heads, std::span<const Segment> segments);

  /// d_q, d_k, d_v (narrow) overwrite; recomputes the probabilities from lse. Training only: k_len = q_len.
  void (*attention_backward)(Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse, Heads heads,
                             std::span<const Segment> segments);

  /// The forward for inference: as attention_forward without lse; splits keys at fixed positions, so that a
  /// query's result does not depend on what else is in the batch, on chunking or on the thread count. k and v
  /// may be bf16 or i8 (Heads::stored_width) beside a wide q and y; they, queries and probabilities are then
  /// rounded to bf16 where the machine multiplies bf16.
  void (*attention_invariant)(Out y, In q, In k, In v, Heads heads, std::span<const Segment> segments);
};

/// Gated products. s = SiLU(a) = a·σ(a), SiLU'(a) = σ(a) + s·(1 − σ(a)). All matrices [N, F] narrow.
/// Row gradients sum over the positions of each distinct token in f32, in ascending order of position.
struct GluKernels {
  void (*swiglu_forward)(Out h, In gate, In up);  ///< h = SiLU(gate) ⊙ up
  void (*swiglu_backward)(Out d_gate, Out d_up, In d_h, In gate, In up);

  void (*stem_forward)(Out h, In gate, const RowPointers& rows);  ///< h = SiLU(gate) ⊙ row
  void (*stem_backward)(Out d_gate, const RowGradients& d_rows, In d_h, In gate, const RowPointers& rows);

  void (*stem_gate_forward)(Out h, In up, const RowPointers& rows);  ///< h = SiLU(row) ⊙ up
  void (*stem_gate_backward)(Out d_up, const RowGradients& d_rows, In d_h, In up, const RowPointers& rows);

  void (*stem_additive_forward)(Out h, In gate, In up,
                                const RowPointers& rows);  ///< h = SiLU(gate) ⊙ (up + row)
  void (*stem_additive_backward)(Out d_gate, Out d_up, const RowGradients& d_rows, In d_h, In gate, In up,
                                 const RowPointers& rows);
};

/// Which experts N positions read, k each, and where their rows lie: assignment (n, j), j < k, is row
/// slots[n·k + j] of the experts' matrices [M, ·], in which the rows of expert e are [offsets[e], offsets[e +
/// 1]), positions ascending, then padding. No assignment is ever dropped.
struct Dispatch {
  std::int64_t positions = 0;       ///< N
  std::int64_t chosen = 0;          ///< k
  std::int64_t experts = 0;         ///< E
  std::int32_t* expert = nullptr;   ///< [N·k]
  std::int32_t* slots = nullptr;    ///< [N·k]
  std::int32_t* rows = nullptr;     ///< [M] position that a row belongs to, -1: padding, a row of zeros
  std::int32_t* offsets = nullptr;  ///< [E + 1] first row of each expert; the last is M
  std::int32_t* counts = nullptr;   ///< [E] assignments of each expert

  std::int64_t row_count() const { return offsets[experts]; }  ///< M
};

/// Means over the N positions of a batch, in f64. With f_i = counts[i] / (N·k) and P_i the mean of p_i:
struct RouterSums {
  double balance = 0;  ///< E·Σ_i f_i P_i: 1 when either is uniform
  double z = 0;        ///< mean of lse²
  double entropy = 0;  ///< mean of −Σ_i p_i log p_i, nats
};

struct MoeKernels {
  /// For each row of logits [N, E] wide: probabilities [N, E] = softmax, lse [1, N] = log Σ exp, expert [N·k]
  /// the k largest in descending order (the lower id where equal), mix [N, k] = softmax over those k. All
  /// wide.
  void (*route)(Out probabilities, Out lse, Out mix, std::int32_t* expert, In logits);
  RouterSums (*router_sums)(In probabilities, In lse, const Dispatch&);
  /// d_logits [N, E] wide: through mix from d_mix [N, k], plus the gradient of balance·RouterSums::balance (f
  /// is constant) and of z·RouterSums::z.
  void (*route_backward)(Out d_logits, In d_mix, In mix, In probabilities, In lse, const Dispatch&,
                         double balance, double z);

  /// rows [M, D] = x [N, D] at the position of each row, zeros in padding. One dtype.
  void (*gather)(Out rows, In x, const Dispatch&);
  /// x [N, D] += Σ_j mix[n, j] · rows[slot (n, j)], j ascending. x and rows wide or narrow; a null mix is
  /// ones (the backward of gather).
  void (*combine)(Out x, In rows, In mix, const Dispatch&);
  /// d_rows [M, D] = mix[n, j] · d_x[n], zeros in padding; d_mix [N, k] = ⟨d_x[n], rows[slot (n, j)]⟩,
  /// skipped when null. d_x and mix wide, rows and d_rows of one dtype, wide or narrow; a null mix is ones.
  void (*combine_backward)(Out d_rows, Out d_mix, In d_x, In rows, In mix, const Dispatch&);
};

struct EmbeddingKernels {
  /// x [N, D] wide = the rows.
  void (*gather)(Out x, const RowPointers& rows);
  /// d_rows += d_x summed over each distinct token's positions.  d_x [N, D] wide.
  void (*scatter)(const RowGradients& d_rows, In d_x);
  /// The same into a dense gradient d_table [V, D]: row tokens[r] += …; for a tied embedding.
  void (*scatter_dense)(Out d_table, const RowGradients& groups, std::span<const std::int32_t> tokens,
                        In d_x);
};

struct LossKernels {
  /// For each row c of logits [C, V] wide: loss[c] = logsumexp(logits[c]) − logits[c, targets[c]], 0 where
  /// targets[c] < 0. When d_logits is given (narrow or wide), d_logits[c] = weights[c]·(softmax − onehot), 0
  /// where ignored. d_logits may be the memory of logits when dtypes agree. loss [1, C] wide.
  void (*softmax_cross_entropy)(Out d_logits, Out loss, In logits, std::span<const std::int32_t> targets,
                                std::span<const float> weights);

  /// The same with a distribution in place of the one target: with p = softmax(teacher[c]) and q =
  /// softmax(logits[c]), loss[c] = Σ p·(log p − log q) and d_logits[c] = weights[c]·(q − p); both 0 where
  /// targets[c] < 0, a target's value says nothing more. teacher [C, V] wide, of logits' dtype.
  void (*softmax_divergence)(Out d_logits, Out loss, In logits, In teacher,
                             std::span<const std::int32_t> targets, std::span<const float> weights);

  /// loss[n] = |x[n] − to[n]|² / |to[n]|², 0 where to[n] is zero; d_x[n] += 2·weights[n]·(x[n] − to[n]) /
  /// |to[n]|². x, to, d_x [N, D] and loss [1, N] wide. `copy` as in rms_norm_backward.
  void (*stream_difference)(Out d_x, Out copy, Out loss, In x, In to, std::span<const float> weights);
};

/// One AdamW update. t is the 1-based step; decoupled decay w −= lr·decay·w before the Adam step.
struct AdamW {
  float lr = 1e-3f, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, decay = 0.0f;
  std::int64_t step = 1;    ///< for the bias corrections
  float grad_scale = 1.0f;  ///< multiplies the gradient (clipping)
};

/// The updates 1 … n that a group of rows has had, so that a record that was away can make up for them. Entry
/// t − 1 of each list belongs to update t. Source: stem-spec §3 (`exact`).
struct AdamWHistory {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f;
  std::span<const double> rate;      ///< lr / (1 − β₁ᵗ)
  std::span<const double> inv_c2;    ///< 1 / (1 − β₂ᵗ)
  std::span<const double> keep;      ///< 1 − lr·decay, > 0
  std::span<const double> log_keep;  ///< Σ log keep of updates 1 … t
  double top_rate = 0;               ///< the largest `rate`

  std::int64_t updates() const { return static_cast<std::int64_t>(rate.size()); }  ///< n
};

struct OptimizerKernels {
  /// Elementwise over [1, n] wide. `copy`, when given, receives the new weights in its dtype (bf16, nearest
  /// even).
  void (*adamw)(Out w, Out m, Out v, In g, Out copy, const AdamW& a);
  /// Rows ids[r] of w, m, v [V, C] with gradient row g [R, C]; ids are distinct.
  void (*adamw_rows)(Out w, Out m, Out v, In g, std::span<const std::int32_t> ids, const AdamW& a);
  /// Rows ids[r] of w, m, v [V, C] from update from[r] to update n, with zero gradients: each step m ← β₁m,
  /// v ← β₂v, w ← keep·w − rate·m / (√(v·inv_c2) + ε), as `adamw` would have done. Steps are replayed one by
  /// one until top_rate·m / (…) lies below half a unit in the last place of w; from there on
  /// m ← β₁ᵏm, v ← β₂ᵏv, w ← w·Π keep. Cost O(R·C·(steps until then, about 200)), never O(n).
  void (*adamw_catch_up)(Out w, Out m, Out v, std::span<const std::int32_t> ids,
                         std::span<const std::int64_t> from, const AdamWHistory& h);
  /// Σ g² in f64, fixed order.
  double (*squared_norm)(In g);
  /// dst = src with conversion of dtype (f32 -> bf16 rounds to nearest even). Same shape.
  void (*convert)(Out dst, In src);
};

/// A backend. All pointers are non-null. Instances live for the whole program.
struct Kernels {
  const char* name = "";
  GemmKernels gemm;
  ServedKernels served;
  NormKernels norm;
  BiasKernels bias;
  RopeKernels rope;
  AttentionKernels attention;
  GluKernels glu;
  MoeKernels moe;
  EmbeddingKernels embedding;
  LossKernels loss;
  OptimizerKernels optimizer;
};

}  // namespace stem
