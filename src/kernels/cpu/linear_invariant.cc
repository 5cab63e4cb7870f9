// y = x · wᵀ for inference: dot products with the lanes along the inner dimension.
//
// Every element is summed in one order: lane l adds x[k] w[k] for k = l, l + kLanes, …, then the lanes are
// added in one fixed tree. Blocking over rows and outputs only decides which sums are in registers together.
// The order depends on the vector width of the machine, never on the number of rows or threads.
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_invariant.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

/// One call with its types resolved; x is f32 (converted before when it was not).
template <class W, class Y>
struct Linear {
  const float* x;
  const W* w;
  Y* y;
  std::int64_t stride_x, stride_w, stride_y, inner;
  bool accumulate;
};

template <int kRows, int kOuts, class W, class Y>
HWY_INLINE void dot_block(const Linear<W, Y>& c, std::int64_t row, std::int64_t out) {
  Vec sums[kRows][kOuts];
  for (int r = 0; r < kRows; ++r) {
    for (int o = 0; o < kOuts; ++o) sums[r][o] = set(0.0f);
  }
  const float* const x = c.x + row * c.stride_x;
  const W* const w = c.w + out * c.stride_w;
  for_vectors(c.inner, [&](std::int64_t i, auto part) HWY_ATTR {
    Vec weights[kOuts];
    for (int o = 0; o < kOuts; ++o) weights[o] = load(w + o * c.stride_w + i, part);
    for (int r = 0; r < kRows; ++r) {
      const Vec in = load(x + r * c.stride_x + i, part);
      for (int o = 0; o < kOuts; ++o) sums[r][o] = hn::MulAdd(in, weights[o], sums[r][o]);
    }
  });
  for (int r = 0; r < kRows; ++r) {
    Y* const y = c.y + (row + r) * c.stride_y + out;
    for (int o = 0; o < kOuts; ++o) {
      const float value = sum(sums[r][o]);
      y[o] = static_cast<Y>(c.accumulate ? static_cast<float>(y[o]) + value : value);
    }
  }
}

template <int kOuts, class W, class Y>
void dot_rows(const Linear<W, Y>& c, std::int64_t first, std::int64_t last, std::int64_t out) {
  std::int64_t row = first;
  for (; row + 4 <= last; row += 4) dot_block<4, kOuts>(c, row, out);
  for (; row + 2 <= last; row += 2) dot_block<2, kOuts>(c, row, out);
  for (; row < last; ++row) dot_block<1, kOuts>(c, row, out);
}

constexpr std::int64_t kOutBlock = 4;

template <class W, class Y>
void linear(const Linear<W, Y>& c, std::int64_t rows, std::int64_t outs) {
  // As many rows at a time as keep x in half of a 1 MiB cache while the weights stream by.
  const std::int64_t row_block =
      std::max<std::int64_t>(16, (std::int64_t{1} << 17) / std::max<std::int64_t>(1, c.inner) / 4 * 4);
  const std::int64_t blocks = (outs + kOutBlock - 1) / kOutBlock;
#pragma omp parallel if (rows * outs * c.inner > 16 * kParallelElements)
  for (std::int64_t first = 0; first < rows; first += row_block) {
    const std::int64_t last = std::min(rows, first + row_block);
#pragma omp for schedule(static) nowait
    for (std::int64_t b = 0; b < blocks; ++b) {
      std::int64_t out = b * kOutBlock;
      if (out + kOutBlock <= outs) {
        dot_rows<kOutBlock>(c, first, last, out);
      } else {
        for (; out < outs; ++out) dot_rows<1>(c, first, last, out);
      }
    }
  }
}

void linear_invariant(Out y, In x, In w, bool accumulate) {
  if (x.dtype != DType::f32) {
    thread_local std::vector<float> wide_store;
    const auto needed = static_cast<std::size_t>(x.size());
    if (wide_store.size() < needed) wide_store.resize(needed);
    const Out wide = matrix(wide_store.data(), x.rows, x.cols);
    optimizer_kernels().convert(wide, x);
    x = wide;
  }
  with_type(w.dtype, [&](auto* type_w) {
    with_type(y.dtype, [&](auto* type_y) {
      using W = std::remove_cv_t<std::remove_pointer_t<decltype(type_w)>>;
      using Y = std::remove_cv_t<std::remove_pointer_t<decltype(type_y)>>;
      linear<W, Y>(
          {x.row<float>(0), w.row<W>(0), y.row<Y>(0), x.stride, w.stride, y.stride, x.cols, accumulate},
          x.rows, w.rows);
    });
  });
}

}  // namespace

LinearInvariant linear_invariant_kernel() {
  return linear_invariant;
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(linear_invariant_kernel);
LinearInvariant linear_invariant_kernel() {
  return HWY_DYNAMIC_DISPATCH(linear_invariant_kernel)();
}
}  // namespace stem::cpu
#endif
