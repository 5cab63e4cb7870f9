#include "core/dtype.h"

namespace stem {

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::f16:
      return "f16";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::u16:
      return "u16";
    case DType::u8:
      return "u8";
    case DType::i8:
      return "i8";
  }
  return "?";
}

std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  constexpr std::uint32_t kInfinity = 0x477ff000u;  // 65520: the tie between the largest half and the next
  if (magnitude >= kInfinity) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 113u << 23) {
    // Below 2^-14: units of 2^-24, counted by an addition that rounds as floats do.
    constexpr float kCounter = 0.5f;  // its last place is 2^-24
    const float counted = std::bit_cast<float>(magnitude) + kCounter;
    return static_cast<std::uint16_t>(
        sign | (std::bit_cast<std::uint32_t>(counted) - std::bit_cast<std::uint32_t>(kCounter)));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

}  // namespace stem
