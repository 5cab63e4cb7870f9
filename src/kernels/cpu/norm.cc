// RMSNorm, forward and backward.
#include <cmath>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void norm_row(T* y, const float* x, const float* weight, float inv, std::int64_t cols) {
  for_vectors(cols, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec scaled = hn::Mul(load(x + i, part), set(inv));
    store(hn::Mul(scaled, load(weight + i, part)), y + i, part);
  });
}

void rms_norm_forward(Out y, Out inv_rms, In x, In weight, double eps) {
  const float* w = weight.row<float>(0);
  float* saved = inv_rms ? inv_rms.row<float>(0) : nullptr;
  with_type(y.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (x.size() > kParallelElements)
    for (std::int64_t n = 0; n < x.rows; ++n) {
      const float* in = x.row<float>(n);
      Vec squares = set(0.0f);
      for_vectors(x.cols, [&](std::int64_t i, auto part) HWY_ATTR {
        const Vec v = load(in + i, part);
        squares = hn::MulAdd(v, v, squares);
      });
      const double mean = static_cast<double>(sum(squares)) / static_cast<double>(x.cols);
      const float inv = static_cast<float>(1.0 / std::sqrt(mean + eps));
      if (saved != nullptr) saved[n] = inv;
      norm_row(y.row<T>(n), in, w, inv, x.cols);
    }
  });
}

// With x̂ = x·inv and g = d_y ⊙ weight: d_x += inv·(g − x̂·mean(g ⊙ x̂)).
template <class T>
void norm_row_backward(float* d_x, T* copy, float* d_weight, const T* d_y, const float* x,
                       const float* weight, float inv, std::int64_t cols) {
  Vec products = set(0.0f);
  for_vectors(cols, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec g = hn::Mul(load(d_y + i, part), load(weight + i, part));
    products = hn::MulAdd(g, load(x + i, part), products);
  });
  const Vec mean = set(sum(products) * inv / static_cast<float>(cols));
  const Vec factor = set(inv);
  for_vectors(cols, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec out = load(d_y + i, part);
    const Vec normed = hn::Mul(load(x + i, part), factor);
    const Vec g = hn::Mul(out, load(weight + i, part));
    const Vec change = hn::NegMulAdd(normed, mean, g);
    const Vec new_d_x = hn::MulAdd(factor, change, load(d_x + i, part));
    store(new_d_x, d_x + i, part);
    if (copy != nullptr) store(new_d_x, copy + i, part);
    if (d_weight != nullptr) store(hn::MulAdd(out, normed, load(d_weight + i, part)), d_weight + i, part);
  });
}

void rms_norm_backward(Out d_x, Out copy, Out d_weight, In d_y, In x, In weight, In inv_rms) {
  // The sum over rows is taken in blocks of fixed size, so that it does not depend on the number of threads.
  constexpr std::int64_t kBlock = 64;
  const std::int64_t blocks = (x.rows + kBlock - 1) / kBlock;
  thread_local std::vector<float> partial_store;
  if (d_weight) partial_store.assign(static_cast<std::size_t>(blocks * x.cols), 0.0f);
  float* const partials = d_weight ? partial_store.data() : nullptr;
  const float* const w = weight.row<float>(0);
  const float* const inv = inv_rms.row<float>(0);
  require(!copy || copy.dtype == d_y.dtype, "rms_norm_backward: the copy has d_y's dtype");
  with_type(d_y.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (x.size() > kParallelElements)
    for (std::int64_t b = 0; b < blocks; ++b) {
      float* const partial = partials == nullptr ? nullptr : partials + b * x.cols;
      const std::int64_t end = std::min(x.rows, (b + 1) * kBlock);
      for (std::int64_t n = b * kBlock; n < end; ++n) {
        norm_row_backward<T>(d_x.row<float>(n), copy ? copy.row<T>(n) : nullptr, partial, d_y.row<T>(n),
                             x.row<float>(n), w, inv[n], x.cols);
      }
    }
  });
  if (partials == nullptr) return;
  float* const total = d_weight.row<float>(0);
  for (std::int64_t b = 0; b < blocks; ++b) {
    const float* const partial = partials + b * x.cols;
    for_vectors(x.cols, [&](std::int64_t i, auto part) HWY_ATTR {
      store(hn::Add(load(total + i, part), load(partial + i, part)), total + i, part);
    });
  }
}

}  // namespace

NormKernels norm_kernels() {
  return {rms_norm_forward, rms_norm_backward};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(norm_kernels);
NormKernels norm_kernels() {
  return HWY_DYNAMIC_DISPATCH(norm_kernels)();
}
}  // namespace stem::cpu
#endif
