// Element types and the bf16 conversion used everywhere (round to nearest even).
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace stem {

enum class DType : std::uint8_t { f32, bf16, f64, f16, i64, i32, u16, u8, i8 };

/// Bytes of one element.
constexpr std::int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
    case DType::u16:
      return 2;
    default:
      return 1;
  }
}

/// Name as in error messages: "f32", "bf16", …
std::string_view name_of(DType dtype);

/// The upper half of an IEEE f32. f32 -> bf16 rounds to nearest even; NaN stays NaN.
/// Source: stem-spec §3 (precision).
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = is_nan ? static_cast<std::uint16_t>((u >> 16) | 0x40u)
                  : static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

/// An IEEE half as f32, exactly. Selections instead of branches, so that loops over it become vector code. A
/// subnormal m · 2^-24 is (1 + m/1024) · 2^-14 less 2^-14: no subnormal float takes part, and threads that
/// flush those give the same.
inline float from_half(std::uint16_t h) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(h & 0x7fff) << 13;
  const std::uint32_t exponent = h & 0x7c00u;
  constexpr std::uint32_t kSmallest = 113u << 23;  // 2^-14, the smallest normal half
  const float tiny = std::bit_cast<float>(magnitude + kSmallest) - std::bit_cast<float>(kSmallest);
  const std::uint32_t normal = magnitude + (exponent == 0x7c00u ? 224u << 23 : 112u << 23);
  const std::uint32_t bits = exponent == 0 ? std::bit_cast<std::uint32_t>(tiny) : normal;
  return std::bit_cast<float>(bits | static_cast<std::uint32_t>(h & 0x8000) << 16);
}

/// The nearest IEEE half, to even on ties; beyond ±65504 infinity.
std::uint16_t to_half(float value);

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<std::int8_t>() {
  return DType::i8;
}
template <>
constexpr DType dtype_of<std::int32_t>() {
  return DType::i32;
}

}  // namespace stem
