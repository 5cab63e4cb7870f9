// Matrix products, biases and RMSNorm.
#include <cmath>

#include "kernels/reference/families.h"
#include "kernels/reference/rows_as_doubles.h"

namespace stem::reference {
namespace {

void gemm(Out c, In a, bool transpose_a, In b, bool transpose_b, In add) {
  const Matrix left = transpose_a ? load_transposed(a) : load_matrix(a);   // [M, I]
  const Matrix right = transpose_b ? load_transposed(b) : load_matrix(b);  // [I, N]
  Row sum(static_cast<std::size_t>(c.cols));
  for (std::int64_t m = 0; m < c.rows; ++m) {
    sum.assign(sum.size(), 0.0);
    // Every c[m, n] adds its products in ascending order of i, whatever M and N are.
    for (std::int64_t i = 0; i < left.cols(); ++i) {
      const double x = left[m][i];
      const double* y = right[i];
      for (std::size_t n = 0; n < sum.size(); ++n) sum[n] += x * y[n];
    }
    if (add) {
      const Row before = load_row(add, m);
      for (std::size_t n = 0; n < sum.size(); ++n) sum[n] += before[n];
    }
    store_row(c, m, sum);
  }
}

void gemm_group(std::span<const GemmCall> calls) {
  for (const GemmCall& g : calls) gemm(g.c, g.a, g.transpose_a, g.b, g.transpose_b, g.add);
}

std::size_t packed_bytes(In, bool) {
  return 0;
}
void pack(void*, In, bool) {
  require(false, "the reference packs nothing");
}
void gemm_packed(Out c, In a, bool transpose_a, In b, bool transpose_b, const void*, In add) {
  gemm(c, a, transpose_a, b, transpose_b, add);
}

void linear_invariant(Out y, In x, In w, bool accumulate) {
  gemm(y, x, false, w, true, accumulate ? In(y) : In{});
}

void rms_norm_forward(Out y, Out inv_rms, In x, In weight, double eps) {
  const Row w = load_row(weight, 0);
  Row inverse(static_cast<std::size_t>(x.rows));
  for (std::int64_t n = 0; n < x.rows; ++n) {
    Row values = load_row(x, n);
    double squares = 0.0;
    for (const double v : values) squares += v * v;
    const double r = 1.0 / std::sqrt(squares / static_cast<double>(x.cols) + eps);
    for (std::size_t d = 0; d < values.size(); ++d) values[d] *= r * w[d];
    store_row(y, n, values);
    inverse[static_cast<std::size_t>(n)] = r;
  }
  if (inv_rms) store_row(inv_rms, 0, inverse);
}

// With x̂ = x·r and g = d_y ⊙ w:  d_x += r·(g − x̂·mean(g ⊙ x̂)),  d_w += Σ_n d_y ⊙ x̂.
void rms_norm_backward(Out d_x, Out copy, Out d_weight, In d_y, In x, In weight, In inv_rms) {
  const Row w = load_row(weight, 0);
  const Row inverse = load_row(inv_rms, 0);
  Row d_w(w.size(), 0.0);
  Row d_values(w.size());
  for (std::int64_t n = 0; n < x.rows; ++n) {
    const Row values = load_row(x, n);
    const Row d_out = load_row(d_y, n);
    const double r = inverse[static_cast<std::size_t>(n)];
    double mean = 0.0;
    for (std::size_t d = 0; d < w.size(); ++d) mean += d_out[d] * w[d] * values[d] * r;
    mean /= static_cast<double>(x.cols);
    for (std::size_t d = 0; d < w.size(); ++d) {
      const double normed = values[d] * r;
      d_values[d] = r * (d_out[d] * w[d] - normed * mean);
      d_w[d] += d_out[d] * normed;
    }
    add_row(d_x, n, d_values);
    if (copy) store_row(copy, n, load_row(d_x, n));
  }
  if (d_weight) add_row(d_weight, 0, d_w);
}

void add_bias(Out y, In bias) {
  const Row b = load_row(bias, 0);
  for (std::int64_t n = 0; n < y.rows; ++n) {
    Row values = load_row(y, n);
    for (std::size_t d = 0; d < b.size(); ++d) values[d] += b[d];
    store_row(y, n, values);
  }
}

void add_bias_backward(Out d_bias, In d_y) {
  Row sums(static_cast<std::size_t>(d_y.cols), 0.0);
  for (std::int64_t n = 0; n < d_y.rows; ++n) {
    const Row values = load_row(d_y, n);
    for (std::size_t d = 0; d < sums.size(); ++d) sums[d] += values[d];
  }
  add_row(d_bias, 0, sums);
}

}  // namespace

GemmKernels gemm_kernels() {
  return {.gemm = gemm,
          .gemm_group = gemm_group,
          .packed_bytes = packed_bytes,
          .pack = pack,
          .gemm_packed = gemm_packed,
          .linear_invariant = linear_invariant};
}

BiasKernels bias_kernels() {
  return {.add_bias = add_bias, .add_bias_backward = add_bias_backward};
}

NormKernels norm_kernels() {
  return {.rms_norm_forward = rms_norm_forward, .rms_norm_backward = rms_norm_backward};
}

}  // namespace stem::reference
