// Per-target building blocks: f32 vectors loaded from and stored to f32 or bf16, ragged ends, exp and
// sigmoid. Re-included once per instruction set (Highway's foreach_target), hence the toggling guard.
#if defined(STEM_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef STEM_KERNELS_CPU_SIMD_INL_H_
#undef STEM_KERNELS_CPU_SIMD_INL_H_
#else
#define STEM_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "core/view.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::ScalableTag<float>;
using Words = hn::RebindToUnsigned<Floats>;
using Halves = hn::Rebind<std::uint16_t, Floats>;
using Vec = hn::Vec<Floats>;
constexpr std::int64_t kLanes = HWY_LANES(float);

/// How much of a vector is there: all of it, or the first n lanes (the others read as zero and are not
/// written).
struct Whole {};
struct Part {
  std::int64_t n;
};

HWY_INLINE Vec set(float value) {
  return hn::Set(Floats(), value);
}

HWY_INLINE Vec load(const float* p, Whole = {}) {
  return hn::LoadU(Floats(), p);
}
HWY_INLINE Vec load(const bf16* p, Whole = {}) {
  const auto half = hn::LoadU(Halves(), reinterpret_cast<const std::uint16_t*>(p));
  return hn::BitCast(Floats(), hn::ShiftLeft<16>(hn::PromoteTo(Words(), half)));
}
// Through a buffer: masked loads touch memory behind the end on the older targets.
template <class T>
HWY_INLINE Vec load(const T* p, Part part) {
  T buffer[kLanes] = {};
  std::memcpy(static_cast<void*>(buffer), p, static_cast<std::size_t>(part.n) * sizeof(T));
  return load(buffer);
}

HWY_INLINE void store(Vec v, float* p, Whole = {}) {
  hn::StoreU(v, Floats(), p);
}
/// Rounds to nearest even, bit for bit as stem::bf16 (NaN stays NaN).
HWY_INLINE void store(Vec v, bf16* p, Whole = {}) {
  const Words du;
  const auto u = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
  const auto rounded = hn::Add(u, hn::Add(hn::Set(du, 0x7fffu), odd));
  const auto quiet = hn::Or(u, hn::Set(du, 0x400000u));
  const auto bits = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
  const hn::RebindToSigned<Words> di;
  // DemoteTo saturates signed values, so the upper half travels as a signed number.
  const auto upper = hn::ShiftRight<16>(hn::BitCast(di, bits));
  const auto half = hn::DemoteTo(hn::RebindToSigned<Halves>(), upper);
  hn::StoreU(hn::BitCast(Halves(), half), Halves(), reinterpret_cast<std::uint16_t*>(p));
}
template <class T>
HWY_INLINE void store(Vec v, T* p, Part part) {
  T buffer[kLanes];
  store(v, buffer);
  std::memcpy(static_cast<void*>(p), buffer, static_cast<std::size_t>(part.n) * sizeof(T));
}

/// Calls f(i, Whole or Part) for i = 0, kLanes, … below n. Lambdas need HWY_ATTR.
template <class F>
HWY_INLINE void for_vectors(std::int64_t n, F&& f) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Whole{});
  if (i < n) f(i, Part{n - i});
}

HWY_INLINE float sum(Vec v) {
  return hn::GetLane(hn::SumOfLanes(Floats(), v));
}

/// e^x, relative error below 3e-7; exactly 1 at 0, 0 below -87, at most e^88; NaN stays NaN.
/// x = n ln2 + r with |r| <= ln2/2, and Taylor's polynomial of degree 7 in r.
HWY_INLINE Vec exp(Vec x) {
  const Floats d;
  const Vec low = set(-87.0f);
  // The constant comes first: x86 returns the second operand when one is NaN.
  const Vec clamped = hn::Min(set(88.0f), hn::Max(low, x));
  const Vec n = hn::Round(hn::Mul(clamped, set(1.44269504f)));
  Vec r = hn::NegMulAdd(n, set(0.693359375f), clamped);
  r = hn::NegMulAdd(n, set(-2.12194440e-4f), r);
  Vec p = hn::MulAdd(set(1.0f / 5040), r, set(1.0f / 720));
  p = hn::MulAdd(p, r, set(1.0f / 120));
  p = hn::MulAdd(p, r, set(1.0f / 24));
  p = hn::MulAdd(p, r, set(1.0f / 6));
  p = hn::MulAdd(p, r, set(0.5f));
  p = hn::MulAdd(p, r, set(1.0f));
  p = hn::MulAdd(p, r, set(1.0f));
  const hn::RebindToSigned<Floats> di;
  const auto power = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  return hn::IfThenZeroElse(hn::Lt(x, low), hn::Mul(p, hn::BitCast(d, power)));
}

/// σ(x) = 1 / (1 + e^-x).
HWY_INLINE Vec sigmoid(Vec x) {
  return hn::Div(set(1.0f), hn::Add(set(1.0f), exp(hn::Neg(x))));
}

/// Calls f with a null pointer of the view's element type: f(static_cast<const float*>(nullptr)) or bf16. The
/// kernels turn a run-time dtype into a template argument with it.
template <class F>
void with_type(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(static_cast<const float*>(nullptr));
  require(dtype == DType::bf16, "the cpu backend takes f32 and bf16 only");
  f(static_cast<const bf16*>(nullptr));
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
