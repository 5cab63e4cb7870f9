// Softmax cross-entropy and its gradient in one call.
#include <omp.h>

#include <cmath>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/loss.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

float largest(const float* x, std::int64_t count) {
  Vec best[4] = {set(x[0]), set(x[0]), set(x[0]), set(x[0])};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) best[k] = hn::Max(best[k], load(x + i + k * kLanes));
  }
  const Vec all = hn::Max(hn::Max(best[0], best[1]), hn::Max(best[2], best[3]));
  float result = hn::GetLane(hn::MaxOfLanes(Floats(), all));
  for (; i < count; ++i) result = std::max(result, x[i]);
  return result;
}

/// out = e^(x − shift) (when out is not null); returns the sum.
float exponentials(float* out, const float* x, float shift, std::int64_t count) {
  Vec total = set(0.0f);
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    Vec e = exp(hn::Sub(load(x + i, part), set(shift)));
    if constexpr (std::is_same_v<decltype(part), Part>) {
      e = hn::IfThenElseZero(hn::FirstN(Floats(), static_cast<std::size_t>(part.n)), e);
    }
    total = hn::Add(total, e);
    if (out != nullptr) store(e, out + i, part);
  });
  return sum(total);
}

template <class T>
void scaled(T* out, const float* x, float factor, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto part)
                         HWY_ATTR { store(hn::Mul(load(x + i, part), set(factor)), out + i, part); });
}

/// Row c; `e` is one row of scratch, so that exp runs once and logits may be overwritten. Returns the loss.
template <class T>
float cross_entropy_row(T* d_logits, float* e, const float* logits, std::int64_t target, float weight,
                        std::int64_t count) {
  const float top = largest(logits, count);
  const float at_target = logits[target];
  const float total = exponentials(d_logits == nullptr ? nullptr : e, logits, top, count);
  if (d_logits != nullptr) {
    scaled(d_logits, e, weight / total, count);
    d_logits[target] = static_cast<T>(weight * (e[target] / total - 1.0f));
  }
  // In double: top and log(total) may cancel against the target's logit.
  return static_cast<float>(std::log(static_cast<double>(total)) + (static_cast<double>(top) - at_target));
}

void softmax_cross_entropy(Out d_logits, Out loss, In logits, std::span<const std::int32_t> targets,
                           std::span<const float> weights) {
  const std::int64_t count = logits.cols;
  const std::int64_t padded = (count + 15) / 16 * 16;
  thread_local std::vector<float> scratch_store;
  const auto needed = static_cast<std::size_t>(padded * omp_get_max_threads());
  if (d_logits && scratch_store.size() < needed) scratch_store.resize(needed);
  float* const scratch = scratch_store.data();
  float* const losses = loss.row<float>(0);
  with_type(d_logits ? d_logits.dtype : DType::f32, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (logits.size() > kParallelElements)
    for (std::int64_t c = 0; c < logits.rows; ++c) {
      const std::int64_t target = targets[static_cast<std::size_t>(c)];
      T* const d_row = d_logits ? d_logits.row<T>(c) : nullptr;
      if (target < 0) {
        losses[c] = 0.0f;
        if (d_row != nullptr) std::fill_n(d_row, count, T(0.0f));
        continue;
      }
      const float weight = d_row == nullptr ? 0.0f : weights[static_cast<std::size_t>(c)];
      losses[c] = cross_entropy_row(d_row, scratch + omp_get_thread_num() * padded, logits.row<float>(c),
                                    target, weight, count);
    }
  });
}

}  // namespace

LossKernels loss_kernels() {
  return {softmax_cross_entropy};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(loss_kernels);
LossKernels loss_kernels() {
  return HWY_DYNAMIC_DISPATCH(loss_kernels)();
}
}  // namespace stem::cpu
#endif
