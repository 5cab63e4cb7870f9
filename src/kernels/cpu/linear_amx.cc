// y = x wᵀ for inference on AMX tiles. Many rows go to the product of training (gemm_amx.cc); for few rows
// the threads share the columns, and w streams through the tiles once. Both add in the same order: within
// blocks of k in the tiles, then block by block.
#include <vector>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/gemm_amx.h"

namespace stem::cpu {

#if STEM_HAS_AMX

STEM_AMX_BEGIN

namespace {

using namespace amx;

constexpr std::int64_t kFewRows = 64;

/// x rounded to bf16, rows and columns filled with zeros to whole tiles.
struct Narrow {
  const bf16* data;
  std::int64_t rows, depth;  // padded to 16 and 32
};

void round_row(bf16* to, const float* from, std::int64_t cols, std::int64_t depth) {
  for (std::int64_t k = 0; k < depth; k += 16) {
    const __m512 value = _mm512_maskz_loadu_ps(first16(cols - k), from + k);
    const __m256bh narrow = _mm512_cvtneps_pbh(value);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k), reinterpret_cast<const __m256i&>(narrow));
  }
}

/// sums [16, 32] = x rows [row, row + 16) · b over `depth` k.
inline void multiply_strip(float* sums, const bf16* x, std::int64_t stride, const bf16* b, std::int64_t depth,
                           std::int64_t ahead) {
  _tile_zero(0);
  _tile_zero(1);
  const auto bytes = static_cast<std::size_t>(stride * 2);
  for (std::int64_t k = 0; k < depth; k += kBlock, b += 2 * kTile) {
    for (int i = 0; i < 32; ++i) _mm_prefetch(reinterpret_cast<const char*>(b + ahead + i * 32), _MM_HINT_T0);
    _tile_loadd(4, x + k, bytes);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kTile, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_stored(0, sums, kBlock * 4);
  _tile_stored(1, sums + 16, kBlock * 4);
}

/// Columns [n, n + 32) of y.
void multiply_columns(Out y, const Narrow& x, std::int64_t rows, const bf16* packed, std::int64_t n,
                      bool accumulate) {
  const std::int64_t kc = depth_block(x.depth), cols = std::min(kBlock, y.cols - n);
  const bf16* const column = packed + n / kBlock * column_values(x.depth);
  alignas(64) float sums[16 * kBlock];
  for (std::int64_t row = 0; row < rows; row += 16) {
    const std::int64_t count = std::min<std::int64_t>(16, rows - row);
    for (std::int64_t k = 0; k < x.depth; k += kc) {
      const std::int64_t depth = std::min(kc, x.depth - k);
      multiply_strip(sums, x.data + row * x.depth + k, x.depth, column + k * kBlock, depth, 2 * kTile);
      write(y, row, n, sums, kBlock, count, cols, k > 0 || accumulate ? In(y) : In{});
    }
  }
}

}  // namespace

void amx_linear(Out y, In x, const void* packed, std::int64_t outs, bool accumulate) {
  thread_local Buffer memory;
  const std::int64_t depth = blocks(x.cols) * kBlock, rows = (x.rows + 15) / 16 * 16;
  bf16* const data = thread_memory<bf16>(memory, rows * depth);
  std::memset(static_cast<void*>(data + x.rows * depth), 0,
              static_cast<std::size_t>((rows - x.rows) * depth * 2));
  const Narrow narrow{data, rows, depth};
  const auto* const w = static_cast<const bf16*>(packed);
  const bool few = x.rows <= kFewRows;
  const std::int64_t columns = blocks(outs);
#pragma omp parallel if (x.rows * outs * x.cols > 16 * kParallelElements)
  {
#pragma omp for schedule(static)
    for (std::int64_t row = 0; row < x.rows; ++row)
      round_row(data + row * depth, x.row<float>(row), x.cols, depth);
    if (few) {
      static constexpr TileConfig kTiles{};
      _tile_loadconfig(&kTiles);
#pragma omp for schedule(static)
      for (std::int64_t c = 0; c < columns; ++c)
        multiply_columns(y, narrow, x.rows, w, c * kBlock, accumulate);
      _tile_release();
    }
  }
  if (few) return;
  const In shape{packed, DType::bf16, outs, depth, depth};
  amx_gemm(y, {data, DType::bf16, x.rows, depth, depth}, false, shape, true, accumulate ? In(y) : In{},
           packed);
}

std::int64_t amx_packed_index(std::int64_t depth, std::int64_t n, std::int64_t k) {
  return n / kBlock * column_values(depth) + k / kBlock * 2 * kTile + n % kBlock / 16 * kTile +
         k % kBlock / 2 * 32 + n % 16 * 2 + k % 2;
}

STEM_AMX_END

#else

void amx_linear(Out, In, const void*, std::int64_t, bool) {
  require(false, "amx_linear without AMX");
}
std::int64_t amx_packed_index(std::int64_t, std::int64_t, std::int64_t) {
  require(false, "amx_packed_index without AMX");
  return 0;
}

#endif

}  // namespace stem::cpu
