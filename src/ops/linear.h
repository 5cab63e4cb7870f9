// y = x Wᵀ and its gradients.
#pragma once

#include "ops/context.h"

namespace stem {

/// y [N, out] = x [N, in] · wᵀ; with `accumulate`, y += (how a projection lands on the residual stream).
/// x has the weight's dtype, except with ctx.inference, where x may be wide. y narrow or wide.
void linear_forward(const Context&, Out y, In x, const Weight& w, bool accumulate = false);

/// d_x [N, in] = d_y · w (overwrites; skipped when null), d_w [out, in] += d_yᵀ · x (wide; skipped when
/// null). d_y [N, out] and x have the weight's dtype.
void linear_backward(const Context&, Out d_x, Out d_w, In d_y, In x, const Weight& w);

/// dst = src in dst's dtype (f32 to bf16 rounds to nearest even).
void convert(const Context&, Out dst, In src);

/// m itself when it has that dtype, else its conversion in ctx.workspace.
In as_type(const Context&, In m, DType dtype);

}  // namespace stem
