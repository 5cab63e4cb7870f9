#include "ops/norm.h"

#include "ops/checks.h"

namespace stem {

void rms_norm_forward(const Context& ctx, Out y, Out inv_rms, In x, In weight, double eps) {
  require_wide(x, x.rows, x.cols, "rms_norm_forward: x is not wide");
  require_matrix(y, x.rows, x.cols, "rms_norm_forward: x and y differ in shape");
  require_wide(weight, 1, x.cols, "rms_norm_forward: weight is not wide [1, D]");
  if (inv_rms) require_wide(inv_rms, 1, x.rows, "rms_norm_forward: inv_rms is not wide [1, N]");
  require(x.cols > 0 && eps >= 0.0, "rms_norm_forward: empty rows or negative eps");
  kernels_of(ctx).norm.rms_norm_forward(y, inv_rms, x, weight, eps);
}

void rms_norm_backward(const Context& ctx, Out d_x, Out copy, Out d_weight, In d_y, In x, In weight,
                       In inv_rms) {
  require_wide(x, x.rows, x.cols, "rms_norm_backward: x is not wide");
  require_matrix(d_y, x.rows, x.cols, "rms_norm_backward: x and d_y differ in shape");
  require_wide(d_x, x.rows, x.cols, "rms_norm_backward: d_x is not wide [N, D]");
  if (copy) {
    require_matrix(copy, x.rows, x.cols, "rms_norm_backward: copy is not [N, D]");
    require(copy.dtype == d_y.dtype, "rms_norm_backward: copy and d_y differ in dtype");
  }
  require_wide(weight, 1, x.cols, "rms_norm_backward: weight is not wide [1, D]");
  require_wide(inv_rms, 1, x.rows, "rms_norm_backward: inv_rms is not wide [1, N]");
  if (d_weight) require_wide(d_weight, 1, x.cols, "rms_norm_backward: d_weight is not wide [1, D]");
  kernels_of(ctx).norm.rms_norm_backward(d_x, copy, d_weight, d_y, x, weight, inv_rms);
}

namespace {

std::int64_t head_count(const In& x, const In& weight) {
  require(weight.cols > 0 && x.cols % weight.cols == 0, "head_norm: x is not [N, heads·A]");
  return x.cols / weight.cols;
}

}  // namespace

void head_norm_forward(const Context& ctx, Out y, Out inv_rms, In x, In weight, double eps) {
  const std::int64_t heads = head_count(x, weight), width = weight.cols;
  require_matrix(y, x.rows, x.cols, "head_norm_forward: x and y differ in shape");
  if (!inv_rms && x.rows < heads) {  // few rows: the heads of one are the rows of a matrix
    for (std::int64_t n = 0; n < x.rows; ++n) {
      Out to = y.slice_rows(n, 1);
      In from = x.slice_rows(n, 1);
      to.rows = from.rows = heads;
      to.cols = from.cols = to.stride = from.stride = width;
      rms_norm_forward(ctx, to, {}, from, weight, eps);
    }
    return;
  }
  if (inv_rms) require_wide(inv_rms, heads, x.rows, "head_norm_forward: inv_rms is not wide [heads, N]");
  for (std::int64_t h = 0; h < heads; ++h)
    rms_norm_forward(ctx, y.slice_cols(h * width, width), inv_rms ? inv_rms.slice_rows(h, 1) : Out{},
                     x.slice_cols(h * width, width), weight, eps);
}

void head_norm_backward(const Context& ctx, Out d_x, Out copy, Out d_weight, In d_y, In x, In weight,
                        In inv_rms) {
  const std::int64_t heads = head_count(x, weight), width = weight.cols;
  require_wide(inv_rms, heads, x.rows, "head_norm_backward: inv_rms is not wide [heads, N]");
  require_wide(d_x, x.rows, x.cols, "head_norm_backward: d_x is not wide [N, heads·A]");
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto head = [&](auto m) { return m ? m.slice_cols(h * width, width) : m; };
    rms_norm_backward(ctx, head(d_x), head(copy), d_weight, head(d_y), head(x), weight,
                      inv_rms.slice_rows(h, 1));
  }
}

}  // namespace stem
