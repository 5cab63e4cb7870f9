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

/// to [cols, stride] = fromᵀ · scale for from [rows, cols]; columns from `rows` to whole vectors become zero.
template <class T>
void copy_tile_transposed(Tile to, const T* from, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                          float scale) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < cols; ++i)
      to.data[i * to.stride + r] = static_cast<float>(from[r * stride + i]) * scale;
  }
  for (std::int64_t i = 0; i < cols; ++i) {
    std::fill(to.data + i * to.stride + rows, to.data + i * to.stride + padded(rows), 0.0f);
  }
}

/// to [rows, cols] of stride `stride` = tileᵀ, for tile [cols, rows].
template <class T>
void write_transposed(T* to, std::int64_t stride, Tile tile, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < cols; ++i)
      to[r * stride + i] = static_cast<T>(tile.data[i * tile.stride + r]);
  }
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
