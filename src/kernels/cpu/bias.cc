// Biases of linear layers, forward and backward.
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bias.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

void add_bias(Out y, In bias) {
  const float* const b = bias.row<float>(0);
  with_type(y.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (y.size() > kParallelElements)
    for (std::int64_t n = 0; n < y.rows; ++n) {
      T* const row = y.row<T>(n);
      for_vectors(y.cols, [&](std::int64_t i, auto part) HWY_ATTR {
        store(hn::Add(load(row + i, part), load(b + i, part)), row + i, part);
      });
    }
  });
}

void add_bias_backward(Out d_bias, In d_y) {
  // Threads share the columns, so that every sum has one order.
  constexpr std::int64_t kColumns = 64;
  float* const total = d_bias.row<float>(0);
  with_type(d_y.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (d_y.size() > kParallelElements)
    for (std::int64_t left = 0; left < d_y.cols; left += kColumns) {
      const std::int64_t count = std::min(kColumns, d_y.cols - left);
      float sums[kColumns] = {};
      for (std::int64_t n = 0; n < d_y.rows; ++n) {
        const T* const row = d_y.row<T>(n) + left;
        for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
          store(hn::Add(load(sums + i, part), load(row + i, part)), sums + i, part);
        });
      }
      for (std::int64_t i = 0; i < count; ++i) total[left + i] += sums[i];
    }
  });
}

}  // namespace

BiasKernels bias_kernels() {
  return {add_bias, add_bias_backward};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(bias_kernels);
BiasKernels bias_kernels() {
  return HWY_DYNAMIC_DISPATCH(bias_kernels)();
}
}  // namespace stem::cpu
#endif
