// How matrices are stored for inference: bf16, or small integers in groups of 32 along a row.
// Source: docs/formats/weights.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "core/dtype.h"

namespace stem {

/// Values of a quantised row share their scale in groups of 32 (the last group is filled with zeros).
/// | format | value | bits a value |
/// |---|---|---|
/// | bf16 | itself | 16 |
/// | int8 | d·q, q in −127 … 127, d f16 | 8.5 |
/// | int4 | D·s·q − M·m, q in 0 … 15, s and m bytes; D and M bf16, one of each for the row | 4.5 |
/// | int4_f16 | d·q + m, q in 0 … 15, d and m f16 (GGUF's Q4_1) | 5 |
enum class WeightFormat : std::uint8_t { bf16, int8, int4, int4_f16 };

inline constexpr std::int64_t kWeightGroup = 32;  ///< values that share a scale

constexpr std::int64_t weight_groups(std::int64_t cols) {
  return (cols + kWeightGroup - 1) / kWeightGroup;
}

/// "bf16", "int8", "int4", "int4_f16".
std::string_view name_of(WeightFormat format);
std::optional<WeightFormat> weight_format(std::string_view name);

/// Bytes of one stored row of `cols` values.
constexpr std::int64_t stored_row_bytes(WeightFormat format, std::int64_t cols) {
  switch (format) {
    case WeightFormat::bf16:
      return 2 * cols;
    case WeightFormat::int8:
      return weight_groups(cols) * (2 + kWeightGroup);
    case WeightFormat::int4:
      return 4 + weight_groups(cols) * (2 + kWeightGroup / 2);
    case WeightFormat::int4_f16:
      return weight_groups(cols) * (4 + kWeightGroup / 2);
  }
  return 0;
}

/// A matrix as it is stored: rows of stored_row_bytes(format, cols), one behind the other, unaligned.
struct StoredMatrix {
  WeightFormat format = WeightFormat::bf16;
  std::int64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;

  const std::byte* row(std::int64_t r) const { return data + r * stored_row_bytes(format, cols); }
};

/// One group of a stored row, taken apart: value k = scale · q[k] + offset.
struct WeightGroup {
  float scale = 0.0f, offset = 0.0f;
  std::int8_t q[kWeightGroup] = {};
};
/// Group `g` of a stored row; not for bf16.
WeightGroup weight_group(WeightFormat format, const std::byte* row, std::int64_t g);

/// Stores a row: the nearest values of the format. int4 looks for the scale and minimum of each group that
/// leave the least squared error, large values counting more. Overwrites stored_row_bytes(format,
/// row.size()) bytes. Values that are not finite are a caller's mistake.
void store_row(WeightFormat format, std::span<const float> row, std::byte* to);

/// The values of a stored row of `cols`, from value `first` on, a multiple of kWeightGroup.
void read_row(WeightFormat format, const std::byte* row, std::int64_t first, std::span<float> values);
inline void read_row(WeightFormat format, const std::byte* row, std::span<float> values) {
  read_row(format, row, 0, values);
}

/// What products with integer weights read of x: int8 in the same groups, x[k] close to scale · q[k].
/// scale = max |x| / 127, q = x · (127 / max |x|) to the nearest, ties to even: the same on every backend.
/// Groups without a value of kLeastActivation are zeros; one with a NaN or an infinity has no finite scale.
inline constexpr float kLeastActivation = 1e-30f;
void quantise_activations(std::span<const float> x, std::int8_t* q, float* scale);

}  // namespace stem
