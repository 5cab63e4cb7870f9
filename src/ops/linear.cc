#include "ops/linear.h"

#include <vector>

#include "ops/checks.h"

namespace stem {

namespace {

void require_forward_shapes(const Out& y, const In& x, const Weight& w) {
  if (w.served)
    require(w.served.rows == y.cols && w.served.cols == x.cols, "linear_forward: weight is not [out, in]");
  else
    require_matrix(w.values, y.cols, x.cols, "linear_forward: weight is not [out, in]");
  require_matrix(x, y.rows, x.cols, "linear_forward: x and y differ in rows");
  require_matrix(y, x.rows, y.cols, "linear_forward: y");
}

GemmCall forward_call(const Out& y, const In& x, const Weight& w, const In& add) {
  require(!w.served, "linear_forward: served weights are for inference alone");
  require(x.dtype == w.values.dtype, "linear_forward: x has not the weight's dtype");
  return {y, x, false, w.values, true, add};
}

/// The products of one backward, after its checks, appended to `calls`.
template <class Append>
void backward_calls(const Context& ctx, const LinearGradientPart& p, Append&& append) {
  const std::int64_t rows = p.d_y.rows, in = p.w.in_features(), out = p.w.out_features();
  require(!ctx.inference && !p.w.served, "linear_backward in an inference context");
  require_matrix(p.d_y, rows, out, "linear_backward: d_y is not [N, out]");
  if (rows == 0) return;
  if (p.d_w) {
    require_matrix(p.x, rows, in, "linear_backward: x is not [N, in]");
    require_wide(p.d_w, out, in, "linear_backward: d_w is not wide [out, in]");
    require(p.x.dtype == p.d_y.dtype, "linear_backward: d_y and x differ in dtype");
    append(GemmCall{p.d_w, p.d_y, true, p.x, false, p.d_w});
  }
  if (p.d_x) {
    require_matrix(p.d_x, rows, in, "linear_backward: d_x is not [N, in]");
    require(p.d_y.dtype == p.w.values.dtype, "linear_backward: d_y has not the weight's dtype");
    append(GemmCall{p.d_x, p.d_y, false, p.w.values, false, {}});
  }
}

}  // namespace

void linear_forward(const Context& ctx, Out y, In x, const Weight& w, In add) {
  require_forward_shapes(y, x, w);
  require(!add || (same_shape(add, y) && add.dtype == y.dtype), "linear_forward: add is not like y");
  if (x.rows == 0) return;
  if (ctx.inference) {
    require(!add || add.data == y.data, "linear_forward: inference adds to y itself");
    if (w.served) return kernels_of(ctx).served.linear(y, x, w.served, static_cast<bool>(add));
    return kernels_of(ctx).gemm.linear_invariant(y, x, w.values, static_cast<bool>(add));
  }
  const GemmCall g = forward_call(y, x, w, add);
  kernels_of(ctx).gemm.gemm(g.c, g.a, g.transpose_a, g.b, g.transpose_b, g.add);
}

void linear_backward(const Context& ctx, Out d_x, Out d_w, In d_y, In x, const Weight& w) {
  backward_calls(ctx, {d_x, d_w, d_y, x, w}, [&](const GemmCall& g) {
    kernels_of(ctx).gemm.gemm(g.c, g.a, g.transpose_a, g.b, g.transpose_b, g.add);
  });
}

void add_outer_products(const Context& ctx, Out sum, In a, In b) {
  linear_backward(ctx, {}, sum, a, b, Weight{{nullptr, b.dtype, a.cols, b.cols, b.cols}});
}

void linear_forward_group(const Context& ctx, std::span<const LinearPart> parts) {
  std::vector<GemmCall> calls;
  for (const LinearPart& p : parts) {
    if (ctx.inference) {
      linear_forward(ctx, p.y, p.x, p.w);
      continue;
    }
    require_forward_shapes(p.y, p.x, p.w);
    if (p.x.rows > 0) calls.push_back(forward_call(p.y, p.x, p.w, {}));
  }
  if (!calls.empty()) kernels_of(ctx).gemm.gemm_group(calls);
}

void linear_backward_group(const Context& ctx, std::span<const LinearGradientPart> parts) {
  std::vector<GemmCall> calls;
  for (const LinearGradientPart& p : parts)
    backward_calls(ctx, p, [&](const GemmCall& g) { calls.push_back(g); });
  if (!calls.empty()) kernels_of(ctx).gemm.gemm_group(calls);
}

PackedWeight pack_weight(const Context& ctx, const Weight& w, bool backward) {
  PackedWeight packed{w};
  if (ctx.inference) return packed;
  const GemmKernels& gemm = kernels_of(ctx).gemm;
  const auto pack = [&](bool transpose) -> const void* {
    const std::size_t bytes = gemm.packed_bytes(w.values, transpose);
    if (bytes == 0) return nullptr;
    void* const memory = ctx.workspace->bytes(bytes);
    gemm.pack(memory, w.values, transpose);
    return memory;
  };
  packed.forward = pack(true);
  if (backward) packed.backward = pack(false);
  return packed;
}

void packed_linear_forward(const Context& ctx, Out y, In x, const PackedWeight& w) {
  if (w.forward == nullptr) return linear_forward(ctx, y, x, w.weight);
  require_forward_shapes(y, x, w.weight);
  require(x.dtype == w.weight.values.dtype, "linear_forward: x has not the weight's dtype");
  kernels_of(ctx).gemm.gemm_packed(y, x, false, w.weight.values, true, w.forward, {});
}

void packed_linear_backward(const Context& ctx, Out d_x, Out d_w, In d_y, In x, const PackedWeight& w) {
  if (w.backward == nullptr) return linear_backward(ctx, d_x, d_w, d_y, x, w.weight);
  linear_backward(ctx, Out{}, d_w, d_y, x, w.weight);
  require_matrix(d_x, d_y.rows, w.weight.in_features(), "linear_backward: d_x is not [N, in]");
  require(d_y.dtype == w.weight.values.dtype, "linear_backward: d_y has not the weight's dtype");
  kernels_of(ctx).gemm.gemm_packed(d_x, d_y, false, w.weight.values, false, w.backward, {});
}

void add_bias_forward(const Context& ctx, Out y, In bias) {
  require_matrix(y, y.rows, y.cols, "add_bias_forward: y");
  require_wide(bias, 1, y.cols, "add_bias_forward: bias is not wide [1, D]");
  kernels_of(ctx).bias.add_bias(y, bias);
}

void add_bias_backward(const Context& ctx, Out d_bias, In d_y) {
  if (!d_bias) return;
  require_matrix(d_y, d_y.rows, d_y.cols, "add_bias_backward: d_y");
  require_wide(d_bias, 1, d_y.cols, "add_bias_backward: d_bias is not wide [1, D]");
  kernels_of(ctx).bias.add_bias_backward(d_bias, d_y);
}

void convert(const Context& ctx, Out dst, In src) {
  require_matrix(src, dst.rows, dst.cols, "convert: shapes differ");
  require_matrix(dst, src.rows, src.cols, "convert: dst");
  kernels_of(ctx).optimizer.convert(dst, src);
}

In as_type(const Context& ctx, In m, DType dtype) {
  if (m.dtype == dtype) return m;
  require(ctx.workspace != nullptr, "as_type: a context without workspace");
  const Out copy = ctx.workspace->matrix(dtype, m.rows, m.cols);
  convert(ctx, copy, m);
  return copy;
}

}  // namespace stem
