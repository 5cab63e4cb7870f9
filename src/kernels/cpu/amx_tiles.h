// What the kernels on AMX tiles share: the tiles' formats, packing, and the product of one 32 × 32 block.
//
// The block c[32, 32] += a[32, K] · b[K, 32] keeps its four tiles in the unit while k runs; per step of 32 k
// it loads two tiles of a and two of b. A tile of a is [16 rows][32 k]; one of b is [16 pairs of k][16
// columns][2], because TDPBF16PS wants pairs of k side by side.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define STEM_HAS_AMX 1

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/workspace.h"

// Around code for special instructions. GCC 12 takes the undefined operand inside its own AVX-512 intrinsics
// for a mistake (its bug 105593).
#define STEM_PRAGMA(text) _Pragma(#text)
#define STEM_TARGET_BEGIN(instructions)                                                      \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"") _Pragma("GCC push_options")      \
          STEM_PRAGMA(GCC target(instructions))
#define STEM_TARGET_END _Pragma("GCC pop_options") _Pragma("GCC diagnostic pop")

#define STEM_AMX_BEGIN STEM_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")
#define STEM_AMX_END STEM_TARGET_END

namespace stem::cpu::amx {

// Outside the code for special instructions: functions may be inlined where more of those are allowed than
// they use themselves, not fewer.

/// Mask of the first n of 16 or 32 lanes.
inline __mmask16 first16(std::int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff)
                 : static_cast<__mmask16>((1u << std::max<std::int64_t>(n, 0)) - 1);
}
inline __mmask32 first32(std::int64_t n) {
  return n >= 32 ? 0xffffffffu : (1u << std::max<std::int64_t>(n, 0)) - 1;
}

}  // namespace stem::cpu::amx

STEM_AMX_BEGIN

namespace stem::cpu::amx {

constexpr std::int64_t kBlock = 32;      // rows and columns of a block of c, and k of one step
constexpr std::int64_t kTile = 16 * 32;  // bf16 values of a tile

inline std::int64_t blocks(std::int64_t n) {
  return (n + kBlock - 1) / kBlock;
}

/// Values of 32 packed columns of b [depth, N]. Odd in steps where many: columns a power of two apart would
/// share a few lines of every cache.
inline std::int64_t column_values(std::int64_t depth) {
  const std::int64_t steps = blocks(depth);
  return (steps < 16 ? steps : steps | 1) * 2 * kTile;
}

/// k of a block: sums over one are made in the tiles, and added to those of the blocks before it.
inline std::int64_t depth_block(std::int64_t depth) {
  constexpr std::int64_t kMaxDepth = 256;  // a panel of a and a block of b take 16 kB each
  const std::int64_t steps = blocks(depth);
  const std::int64_t parts = std::max<std::int64_t>(1, (steps * kBlock + kMaxDepth - 1) / kMaxDepth);
  return std::max<std::int64_t>(1, (steps + parts - 1) / parts) * kBlock;
}

/// What _tile_loadconfig reads: eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

/// Transposes 16 × 16 values of 32 bits.
inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // Now r[4g + j] holds, in its four 128-bit lanes l, column 4l + j of rows 4g .. 4g + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512i low01 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88),
                  high01 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
    const __m512i low23 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88),
                  high23 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    t[8 + j] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    t[4 + j] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    t[12 + j] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
  std::memcpy(r, t, sizeof(t));
}

/// Rows of k-contiguous values as a tile: `rows` of 16 rows, `depth` of 32 values, the rest zero.
inline void load_rows(__m512i (&r)[16], const bf16* from, std::int64_t stride, std::int64_t rows,
                      std::int64_t depth) {
  const __mmask32 mask = first32(depth);
  for (int i = 0; i < 16; ++i)
    r[i] = i < rows ? _mm512_maskz_loadu_epi16(mask, from + i * stride) : _mm512_setzero_si512();
}

/// Rows k of column-contiguous values as pairs: r[p][c] = (from[2p][c], from[2p + 1][c]).
inline void load_pairs(__m512i (&r)[16], const bf16* from, std::int64_t stride, std::int64_t depth,
                       std::int64_t cols) {
  const __mmask16 mask = first16(cols);
  for (int p = 0; p < 16; ++p) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i even = 2 * p < depth ? _mm256_maskz_loadu_epi16(mask, from + 2 * p * stride) : zero;
    const __m256i odd =
        2 * p + 1 < depth ? _mm256_maskz_loadu_epi16(mask, from + (2 * p + 1) * stride) : zero;
    r[p] = _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
  }
}

inline void store_tile(bf16* to, const __m512i (&r)[16]) {
  for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * 32, r[i]);
}

/// Two tiles of 32 lines × 32 k. A line is a row of a or a column of b; lines lie along m's rows when
/// `along_rows`, else along its columns. In tiles of pairs (b's) k runs down, in tiles of rows (a's) across.
inline void pack_lines(bf16* to, const In& m, bool along_rows, bool pairs, std::int64_t line,
                       std::int64_t k) {
  const std::int64_t lines = along_rows ? m.rows : m.cols, depth = along_rows ? m.cols : m.rows;
  const auto* data = static_cast<const bf16*>(m.data);
  for (const std::int64_t first : {line, line + 16}) {
    __m512i r[16];
    if (along_rows) {
      load_rows(r, data + first * m.stride + k, m.stride, lines - first, depth - k);
    } else {
      load_pairs(r, data + k * m.stride + first, m.stride, depth - k, lines - first);
    }
    if (along_rows == pairs) transpose(r);
    store_tile(to, r);
    to += kTile;
  }
}

/// Packs columns [n, n + 32) of op(b) [K, N] at 32 k: two tiles of pairs.
inline void pack_columns(bf16* to, const In& b, bool transposed, std::int64_t k, std::int64_t n) {
  pack_lines(to, b, transposed, true, n, k);
}

/// Packs rows [m, m + 32) of op(a) [M, K] at 32 k: two tiles of 16 rows.
inline void pack_rows(bf16* to, const In& a, bool transposed, std::int64_t m, std::int64_t k) {
  pack_lines(to, a, !transposed, false, m, k);
}

/// A panel of 32 rows of a as the tile loads see it.
struct Panel {
  const char* data;
  std::int64_t stride;  // bytes between rows of a tile
  std::int64_t lower;   // bytes from the upper tile to the lower one
  std::int64_t step;    // bytes from one step of 32 k to the next
};

/// Values to start from: f32, 32 × 32 at `at` with rows `stride` apart; null: zeros.
struct Start {
  const float* at = nullptr;
  std::int64_t stride = 0;
};

/// Nothing to do beside a product.
struct Nothing {
  void operator()(std::int64_t, std::int64_t) const {}
};

/// sums [32, 32] = start + panel · b over `depth` k. `beside(step, steps)` is work for the core while the
/// tile unit multiplies.
template <class Beside = Nothing>
inline void multiply(float* sums, std::int64_t stride, const Start& start, const Panel& a, const bf16* b,
                     std::int64_t depth, const Beside& beside = {}) {
  const auto bytes = static_cast<std::size_t>(stride) * sizeof(float);
  if (start.at != nullptr) {
    const auto from = static_cast<std::size_t>(start.stride) * sizeof(float);
    _tile_loadd(0, start.at, from);
    _tile_loadd(1, start.at + 16, from);
    _tile_loadd(2, start.at + 16 * start.stride, from);
    _tile_loadd(3, start.at + 16 * start.stride + 16, from);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const char* rows = a.data;
  const auto row_bytes = static_cast<std::size_t>(a.stride);
  for (std::int64_t k = 0; k < depth; k += kBlock, rows += a.step, b += 2 * kTile) {
    _tile_loadd(4, rows, row_bytes);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kTile, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, rows + a.lower, row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    beside(k / kBlock, depth / kBlock);
  }
  _tile_stored(0, sums, bytes);
  _tile_stored(1, sums + 16, bytes);
  _tile_stored(2, sums + 16 * stride, bytes);
  _tile_stored(3, sums + 16 * stride + 16, bytes);
}

/// c = add + sums, `rows` × `cols` of them at (row, col), in c's dtype; a null `add` is zeros.
inline void write(Out c, std::int64_t row, std::int64_t col, const float* sums, std::int64_t stride,
                  std::int64_t rows, std::int64_t cols, In add) {
  for (std::int64_t i = 0; i < rows; ++i, sums += stride) {
    for (std::int64_t j = 0; j < cols; j += 16) {
      const __mmask16 mask = first16(cols - j);
      const std::int64_t to = (row + i) * c.stride + col + j, from = (row + i) * add.stride + col + j;
      __m512 value = _mm512_loadu_ps(sums + j);
      if (c.dtype == DType::f32) {
        if (add)
          value =
              _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, static_cast<const float*>(add.data) + from));
        _mm512_mask_storeu_ps(static_cast<float*>(c.data) + to, mask, value);
      } else {
        if (add) {
          const __m256i before = _mm256_maskz_loadu_epi16(mask, static_cast<const bf16*>(add.data) + from);
          value =
              _mm512_add_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(before), 16)));
        }
        const __m256bh narrow = _mm512_cvtneps_pbh(value);
        _mm256_mask_storeu_epi16(static_cast<bf16*>(c.data) + to, mask,
                                 reinterpret_cast<const __m256i&>(narrow));
      }
    }
  }
}

/// 32 × 32 values of f32 or bf16, rows `stride` apart.
struct Block {
  char* data = nullptr;
  std::int64_t stride = 0;  // bytes
  bool narrow = false;      // bf16
};
inline Block block_of(In m, std::int64_t row, std::int64_t col) {
  const auto size = static_cast<std::int64_t>(size_of(m.dtype));
  return {static_cast<char*>(const_cast<void*>(m.data)) + (row * m.stride + col) * size, m.stride * size,
          m.dtype == DType::bf16};
}

/// A block of sums [32, 32] on its way into a matrix: to = add + sums; a null `add` is zeros.
struct Delivery {
  const float* sums = nullptr;
  Block to, add;

  void rows(std::int64_t first, std::int64_t last) const {
    for (std::int64_t i = first; i < last; ++i) {
      __m512 low = _mm512_load_ps(sums + i * kBlock), high = _mm512_load_ps(sums + i * kBlock + 16);
      const char* const from = add.data + i * add.stride;
      if (add.data == nullptr) {
      } else if (add.narrow) {
        low = _mm512_add_ps(low, widened(from));
        high = _mm512_add_ps(high, widened(from + 32));
      } else {
        low = _mm512_add_ps(low, _mm512_loadu_ps(from));
        high = _mm512_add_ps(high, _mm512_loadu_ps(from + 64));
      }
      char* const at = to.data + i * to.stride;
      if (to.narrow) {
        const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
        _mm512_storeu_si512(at, reinterpret_cast<const __m512i&>(both));
      } else {
        _mm512_storeu_ps(at, low);
        _mm512_storeu_ps(at + 64, high);
      }
    }
  }

 private:
  static __m512 widened(const char* from) {
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
  }
};

/// Memory that lives as long as its thread and grows to the largest request.
template <class T>
T* thread_memory(Buffer& buffer, std::int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  if (buffer.size() < bytes) buffer = Buffer(bytes);
  return static_cast<T*>(buffer.data());
}

}  // namespace stem::cpu::amx

STEM_AMX_END

#else
#define STEM_HAS_AMX 0
#endif
