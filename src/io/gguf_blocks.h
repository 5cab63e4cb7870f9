// The element types of GGUF tensors: their sizes, and rows of blocks as f32.
// Source: docs/formats/gguf.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace stem {

/// Element types under the numbers that files give them. Quantised ones come in blocks: a few scales and the
/// small integers that share them.
enum class GgmlType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  i32 = 26,
  bf16 = 30,
};

/// The type that a file means by `number`, among them types that have no enumerator above; nothing if the
/// format has no such type.
std::optional<GgmlType> ggml_type(std::uint32_t number);

/// The format's spelling: "F32", "Q4_K", …
std::string_view name_of(GgmlType type);

std::int64_t block_values(GgmlType type);  ///< values in one block: 1, 32 or 256; 64 or 128 in rare types
std::int64_t block_bytes(GgmlType type);   ///< bytes of one block

/// Bytes of `cols` values. kFormat unless that is a whole number of blocks.
std::uint64_t row_bytes(GgmlType type, std::int64_t cols);

/// Whether `dequantise` takes the type: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K.
bool can_dequantise(GgmlType type);

/// The values of one row, or of several that follow each other: to[i] = scale · q_i (− or + minimum), from
/// the row_bytes(type, to.size()) bytes of `row`, which need no alignment. Overwrites. The products are exact
/// in f32 and a minimum costs one rounding, so the bits are the same on every machine, with fused products or
/// without. kFormat for other types and for values that are no whole number of blocks.
void dequantise(GgmlType type, std::span<const std::byte> row, std::span<float> to);

}  // namespace stem
