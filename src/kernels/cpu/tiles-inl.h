// Per-target small matrix products for attention: f32 tiles in L1, lanes along the columns.
//
// Each element of a product is one chain of fused multiply-adds over k, starting from 0 or from the old
// value, so its bits do not depend on how rows and columns are blocked here, nor on what the neighbouring
// columns hold.
#if defined(STEM_KERNELS_CPU_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef STEM_KERNELS_CPU_TILES_INL_H_
#undef STEM_KERNELS_CPU_TILES_INL_H_
#else
#define STEM_KERNELS_CPU_TILES_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {

/// The left factor, read one value at a time: element (m, k) at data[m·row + k·step].
struct Left {
  const float* data;
  std::int64_t row, step;
};

/// A tile with contiguous rows.
struct Tile {
  float* data;
  std::int64_t stride;
};

// Accumulators of one register block: kRows x kCols vectors. 16 of the 32 registers of AVX-512, 12 of 16
// elsewhere.
constexpr int kTileRows = kLanes >= 16 ? 8 : 6;
constexpr int kTileCols = 2;

template <int kRows, int kCols, bool kAccumulate>
HWY_INLINE void product_block(float* HWY_RESTRICT c, std::int64_t stride_c, const float* HWY_RESTRICT a,
                              std::int64_t row_a, std::int64_t step_a, const float* HWY_RESTRICT b,
                              std::int64_t stride_b, std::int64_t depth) {
  Vec sums[kRows][kCols];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kCols; ++v)
      sums[r][v] = kAccumulate ? load(c + r * stride_c + v * kLanes) : set(0.0f);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    Vec right[kCols];
    for (int v = 0; v < kCols; ++v) right[v] = load(b + k * stride_b + v * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec left = set(a[r * row_a + k * step_a]);
      for (int v = 0; v < kCols; ++v) sums[r][v] = hn::MulAdd(left, right[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kCols; ++v) store(sums[r][v], c + r * stride_c + v * kLanes);
  }
}

template <int kRows, bool kAccumulate>
HWY_INLINE void product_rows(Tile c, Left a, Tile b, std::int64_t m, std::int64_t vectors,
                             std::int64_t depth) {
  float* const row = c.data + m * c.stride;
  const float* const left = a.data + m * a.row;
  std::int64_t v = 0;
  for (; v + kTileCols <= vectors; v += kTileCols) {
    product_block<kRows, kTileCols, kAccumulate>(row + v * kLanes, c.stride, left, a.row, a.step,
                                                 b.data + v * kLanes, b.stride, depth);
  }
  for (; v < vectors; ++v) {
    product_block<kRows, 1, kAccumulate>(row + v * kLanes, c.stride, left, a.row, a.step, b.data + v * kLanes,
                                         b.stride, depth);
  }
}

/// c [rows, vectors·kLanes] (+)= a [rows, depth] · b [depth, vectors·kLanes].
template <bool kAccumulate>
void tile_product(Tile c, Left a, Tile b, std::int64_t rows, std::int64_t vectors, std::int64_t depth) {
  std::int64_t m = 0;
  for (; m + kTileRows <= rows; m += kTileRows)
    product_rows<kTileRows, kAccumulate>(c, a, b, m, vectors, depth);
  for (; m + 4 <= rows; m += 4) product_rows<4, kAccumulate>(c, a, b, m, vectors, depth);
  for (; m < rows; ++m) product_rows<1, kAccumulate>(c, a, b, m, vectors, depth);
}

/// Rounds up to whole vectors.
constexpr std::int64_t padded(std::int64_t count) {
  return (count + kLanes - 1) / kLanes * kLanes;
}

/// to [rows, stride] = from in f32, `scale` applied; columns behind `cols` become zero.
template <class T>
void copy_tile(Tile to, const T* from, std::int64_t stride, std::int64_t rows, std::int64_t cols,
               float scale) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for_vectors(cols, [&](std::int64_t i, auto part) HWY_ATTR {
      store(hn::Mul(load(from + r * stride + i, part), set(scale)), to.data + r * to.stride + i);
    });
  }
}

#if HWY_TARGET == HWY_SCALAR
// No shuffles: transpose() goes value by value.
template <class D, class S>
HWY_INLINE void transpose_blocks(D*, std::int64_t, const S*, std::int64_t, std::int64_t, float) {}
constexpr std::int64_t kBlockRows = std::int64_t{1} << 62;
#else
constexpr std::int64_t kBlockRows = 4;
using Quad = hn::FixedTag<float, 4>;
using QuadVec = hn::Vec<Quad>;

HWY_INLINE QuadVec load_quad(const float* p) {
  return hn::LoadU(Quad(), p);
}
HWY_INLINE QuadVec load_quad(const bf16* p) {
  const hn::Rebind<std::uint16_t, Quad> half;
  const hn::RebindToUnsigned<Quad> words;
  const auto bits = hn::PromoteTo(words, hn::LoadU(half, reinterpret_cast<const std::uint16_t*>(p)));
  return hn::BitCast(Quad(), hn::ShiftLeft<16>(bits));
}
HWY_INLINE void store_quad(QuadVec v, float* p) {
  hn::StoreU(v, Quad(), p);
}
HWY_INLINE void store_quad(QuadVec v, bf16* p) {
  float values[4];
  hn::StoreU(v, Quad(), values);
  for (int i = 0; i < 4; ++i) p[i] = bf16(values[i]);
}

HWY_INLINE QuadVec lower_pairs(QuadVec a, QuadVec b) {
  const hn::Repartition<double, Quad> d;
  return hn::BitCast(Quad(), hn::InterleaveLower(d, hn::BitCast(d, a), hn::BitCast(d, b)));
}
HWY_INLINE QuadVec upper_pairs(QuadVec a, QuadVec b) {
  const hn::Repartition<double, Quad> d;
  return hn::BitCast(Quad(), hn::InterleaveUpper(d, hn::BitCast(d, a), hn::BitCast(d, b)));
}

/// Four rows of `from`, in blocks of 4 x 4: four 128-bit loads, eight shuffles, four stores each.
template <class D, class S>
HWY_INLINE void transpose_blocks(D* to, std::int64_t stride_to, const S* from, std::int64_t stride_from,
                                 std::int64_t cols, float scale) {
  const Quad d;
  const QuadVec factor = hn::Set(d, scale);
  for (std::int64_t i = 0; i < cols; i += 4) {
    QuadVec row[4];
    for (int k = 0; k < 4; ++k) row[k] = hn::Mul(load_quad(from + k * stride_from + i), factor);
    const QuadVec low01 = hn::InterleaveLower(d, row[0], row[1]),
                  high01 = hn::InterleaveUpper(d, row[0], row[1]);
    const QuadVec low23 = hn::InterleaveLower(d, row[2], row[3]),
                  high23 = hn::InterleaveUpper(d, row[2], row[3]);
    store_quad(lower_pairs(low01, low23), to + i * stride_to);
    store_quad(upper_pairs(low01, low23), to + (i + 1) * stride_to);
    store_quad(lower_pairs(high01, high23), to + (i + 2) * stride_to);
    store_quad(upper_pairs(high01, high23), to + (i + 3) * stride_to);
  }
}
#endif

/// to [cols, rows] = fromᵀ · scale, for from [rows, cols].
template <class D, class S>
void transpose(D* to, std::int64_t stride_to, const S* from, std::int64_t stride_from, std::int64_t rows,
               std::int64_t cols, float scale) {
  const std::int64_t whole_rows = rows / kBlockRows * kBlockRows, whole_cols = cols / 4 * 4;
  for (std::int64_t r = 0; r < whole_rows; r += kBlockRows) {
    transpose_blocks(to + r, stride_to, from + r * stride_from, stride_from, whole_cols, scale);
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = r < whole_rows ? whole_cols : 0; i < cols; ++i) {
      to[i * stride_to + r] = static_cast<D>(static_cast<float>(from[r * stride_from + i]) * scale);
    }
  }
}

/// A transposed tile; its columns from `rows` to whole vectors become zero.
template <class T>
void copy_tile_transposed(Tile to, const T* from, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                          float scale) {
  transpose(to.data, to.stride, from, stride, rows, cols, scale);
  for (std::int64_t i = 0; i < cols; ++i) {
    std::fill(to.data + i * to.stride + rows, to.data + i * to.stride + padded(rows), 0.0f);
  }
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
