// y = x Wᵀ and its gradients.
#pragma once

#include <span>

#include "ops/context.h"

namespace stem {

/// y [N, out] = add + x [N, in] · wᵀ; a null `add` is zeros, and `add` may be y itself (how a projection
/// lands on the residual stream; with ctx.inference it must be y). x has the weight's dtype, except with
/// ctx.inference, where x may be wide (served weights want x and y wide). y narrow or wide, add like y.
void linear_forward(const Context&, Out y, In x, const Weight& w, In add = {});

/// A weight that serves several products in a row: packed once, in ctx.workspace, for y = x · wᵀ and, when
/// `backward`, for d_x = d_y · w, as far as the backend packs at all. The bits are those of the plain
/// functions.
struct PackedWeight {
  Weight weight;
  const void* forward = nullptr;  // null: not packed
  const void* backward = nullptr;
};
PackedWeight pack_weight(const Context&, const Weight& w, bool backward);
void packed_linear_forward(const Context&, Out y, In x, const PackedWeight& w);
/// d_x alone, and d_w as linear_backward does (null: skipped).
void packed_linear_backward(const Context&, Out d_x, Out d_w, In d_y, In x, const PackedWeight& w);

/// d_x [N, in] = d_y · w (overwrites; skipped when null), d_w [out, in] += d_yᵀ · x (wide; skipped when
/// null). d_y [N, out] and x have the weight's dtype.
void linear_backward(const Context&, Out d_x, Out d_w, In d_y, In x, const Weight& w);

/// sum [in_a, in_b] wide += aᵀ · b, a [N, in_a] and b [N, in_b] of one dtype: d_w of a linear layer, or the
/// normal equations of a least squares.
void add_outer_products(const Context&, Out sum, In a, In b);

/// One linear layer of a group, as linear_forward without `add` and linear_backward take it.
struct LinearPart {
  Out y;
  In x;
  Weight w;
};
struct LinearGradientPart {
  Out d_x, d_w;
  In d_y, x;
  Weight w;
};
/// Independent layers at once (experts): the same results as one by one, with all threads at work on all of
/// them.
void linear_forward_group(const Context&, std::span<const LinearPart> parts);
void linear_backward_group(const Context&, std::span<const LinearGradientPart> parts);

/// y [N, D] += bias [1, D] in every row; y narrow or wide, bias wide.
void add_bias_forward(const Context&, Out y, In bias);
/// d_bias [1, D] wide += Σ_n d_y[n] (skipped when null).
void add_bias_backward(const Context&, Out d_bias, In d_y);

/// dst = src in dst's dtype (f32 to bf16 rounds to nearest even).
void convert(const Context&, Out dst, In src);

/// m itself when it has that dtype, else its conversion in ctx.workspace.
In as_type(const Context&, In m, DType dtype);

}  // namespace stem
