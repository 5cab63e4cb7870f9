// Integer weights as the cpu backend reads them: panels of 16 rows, so that a vector of sums holds 16
// outputs.
//
// A panel is [head] [scales of every group] [integers of every group], each part on a cache line of its own:
//  * head: int4 alone, D of 16 rows, then −M of 16 rows, f32.
//  * scales of a group: int8 d of 16 rows (f16); int4 s of 16 rows, then m (bytes); int4_f16 d, then m (f16).
//  * integers of a group: vectors of 64 bytes [16 rows][4 values of k], what one VPDPBUSD and one row of a
//    tile take. int8: vector j holds k = 4j … 4j + 3, plus 128. int4: the low halves of vector j hold k = 4j
//    …, the high ones k = 16 + 4j ….
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/weight_format.h"
#include "kernels/kernels.h"

namespace stem::cpu {

constexpr std::int64_t kPanelRows = 16;
constexpr std::int64_t kIntegerOffset = 128;  // int8 weights are stored unsigned

/// Bytes of the parts of a panel.
struct PanelLayout {
  std::int64_t groups, head, scales, integers;  // `scales` and `integers` of one group
  std::int64_t first_scale, first_integer, bytes;

  PanelLayout(WeightFormat format, std::int64_t cols)
      : groups(weight_groups(cols)),
        head(format == WeightFormat::int4 ? 2 * kPanelRows * 4 : 0),
        scales(format == WeightFormat::int4_f16 ? 4 * kPanelRows : 2 * kPanelRows),
        integers(format == WeightFormat::int8 ? kPanelRows * kWeightGroup : kPanelRows * kWeightGroup / 2),
        first_scale(head),
        first_integer((head + groups * scales + 63) / 64 * 64),
        bytes(first_integer + groups * integers) {}
};

/// Number i of those that begin at `scales`, halves.
inline float half_at(const std::uint8_t* scales, std::int64_t i) {
  std::uint16_t bits;
  std::memcpy(&bits, scales + 2 * i, sizeof(bits));
  return from_half(bits);
}

inline std::int64_t panel_count(std::int64_t rows) {
  return (rows + kPanelRows - 1) / kPanelRows;
}

/// x [M, cols] in int8, in groups; 16 rows of a group lie together, as a tile takes them.
struct Activations {
  std::int64_t rows = 0, groups = 0;
  std::int8_t* q = nullptr;       // [M padded to 32, / 16][groups][16][32]
  bf16* wide = nullptr;           // the same numbers for tiles: either this or q
  float* scale = nullptr;         // [M padded to 32, groups]
  float* sum = nullptr;           // [M padded to 32, groups] scale · Σ q
  std::int32_t* shift = nullptr;  // [M padded to 32, groups] −128 Σ q: takes kIntegerOffset back out of a sum

  /// What a product needs to know of group g of a row besides its values: `total` is their sum.
  void note(std::int64_t row, std::int64_t g, float group_scale, std::int32_t total) const {
    const std::int64_t at = row * groups + g;
    scale[at] = group_scale;
    sum[at] = group_scale * static_cast<float>(total);
    // Of a group with a NaN the total is anything; its scale is no number either.
    shift[at] = static_cast<std::int32_t>(-static_cast<std::uint32_t>(kIntegerOffset) *
                                          static_cast<std::uint32_t>(total));
  }
  /// Where the kWeightGroup values of group g of a row begin, in q and in wide.
  std::int64_t group(std::int64_t row, std::int64_t g) const {
    return ((row / kPanelRows * groups + g) * kPanelRows + row % kPanelRows) * kWeightGroup;
  }
};

/// One product y (+)= x wᵀ with integer weights, value scale_g · q + offset_g. Group after group, y grows by
///   (s_x,g · Σ q q_x) · scale_g, then by (s_x,g · Σ q_x) · offset_g,
/// each a fused multiplication and addition; the sums within a group are exact.
struct IntegerProduct {
  Out y;
  Activations x;
  ServedMatrix w;
  bool accumulate = false;

  const std::uint8_t* panel(std::int64_t p) const {
    return static_cast<const std::uint8_t*>(w.data) + p * PanelLayout(w.format, w.cols).bytes;
  }
};

/// Quantises x row by row, then multiplies, on all threads, with the vectors that every CPU has.
void integer_product_vectors(const IntegerProduct& product, In x);

/// Whether this CPU has the instructions of integer_product_avx512 (AVX-512 with VNNI).
bool vnni_supported();
/// The same bits (where the vectors above have fused products). Reads Activations::q.
void integer_product_avx512(const IntegerProduct& product, In x);

/// The same bits on AMX tiles; call only where amx_supported(). Reads Activations::wide.
void integer_product_amx(const IntegerProduct& product, In x);
constexpr std::int64_t kTileRowsFrom = 17;  // rows of x from which tiles are faster than vectors

/// Quantises a row of x into Activations::q or ::wide, whichever is there; needs AVX-512.
void quantise_row_avx512(const Activations& to, In x, std::int64_t row);

}  // namespace stem::cpu
