// Rotary position embedding, in place.
#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

template <class T>
void rotate(T* head, const float* cosines, const float* sines, float direction, std::int64_t half) {
  for_vectors(half, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec c = load(cosines + i, part);
    const Vec s = hn::Mul(load(sines + i, part), set(direction));
    const Vec a = load(head + i, part), b = load(head + half + i, part);
    store(hn::NegMulAdd(b, s, hn::Mul(a, c)), head + i, part);
    store(hn::MulAdd(a, s, hn::Mul(b, c)), head + half + i, part);
  });
}

void rope(Out x, std::int64_t heads, In cos_sin, std::span<const std::int32_t> positions, bool inverse) {
  const std::int64_t width = x.cols / heads, half = width / 2;
  const float direction = inverse ? -1.0f : 1.0f;
  with_type(x.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (x.size() > kParallelElements)
    for (std::int64_t n = 0; n < x.rows; ++n) {
      const float* const angles = cos_sin.row<float>(positions[static_cast<std::size_t>(n)]);
      T* const row = x.row<T>(n);
      for (std::int64_t h = 0; h < heads; ++h)
        rotate(row + h * width, angles, angles + half, direction, half);
    }
  });
}

}  // namespace

RopeKernels rope_kernels() {
  return {rope};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(rope_kernels);
RopeKernels rope_kernels() {
  return HWY_DYNAMIC_DISPATCH(rope_kernels)();
}
}  // namespace stem::cpu
#endif
