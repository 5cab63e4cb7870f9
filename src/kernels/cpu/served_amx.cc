// Integer weights times int8 activations on AMX tiles. Both are exact in bf16, and so are the sums of a group
// in f32: they need no conversion before vectors scale them and add them up, as served_avx512.cc does.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/served_avx512.h"

namespace stem::cpu {

#if STEM_HAS_AMX

STEM_AMX_BEGIN

namespace {

using namespace amx;

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kSums = kTileRows * kPanelRows;  // of a tile
static_assert(kTile == kPanelRows * kWeightGroup && kPanelRows == 16);

/// Four values of k of 16 columns as two rows of a tile of pairs.
inline void open_quad(__m512i bytes, int offset, bf16* to) {
  const __m512i low = _mm512_set1_epi32(255), shift = _mm512_set1_epi32(offset);
  // An integer this small lies in the upper half of a float.
  const auto number = [&](__m512i v) {
    return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_and_si512(v, low), shift)));
  };
  const auto pair = [&](__m512i even, __m512i odd) {
    return _mm512_or_si512(_mm512_srli_epi32(number(even), 16), number(odd));
  };
  _mm512_store_si512(to, pair(bytes, _mm512_srli_epi32(bytes, 8)));
  _mm512_store_si512(to + 32, pair(_mm512_srli_epi32(bytes, 16), _mm512_srli_epi32(bytes, 24)));
}

/// The integers of a group as a tile.
template <WeightFormat kFormat>
inline void open_group(const std::uint8_t* from, bf16* tile) {
  __m512i bytes[kQuads];
  load_integers<kFormat>(bytes, from);
  for (int j = 0; j < kQuads; ++j)
    open_quad(bytes[j], kFormat == WeightFormat::int8 ? kIntegerOffset : 0, tile + 64 * j);
}

// Two panels are opened once, and wait in the second-level cache for blocks of 32 rows.

constexpr std::int64_t kPanels = 2;

struct OpenPanels {
  std::int64_t first, count;  // panels of the matrix: one or two
  bf16* tiles[kPanels];       // [groups]
  float *scales, *offsets;    // [groups][2][16]
};

template <WeightFormat kFormat>
void open_panel(const IntegerProduct& p, const PanelLayout& layout, const OpenPanels& open, std::int64_t i) {
  const std::uint8_t* const at = p.panel(open.first + std::min(i, open.count - 1));
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    const Scales s = load_scales<kFormat>(at, at + layout.first_scale + g * layout.scales);
    _mm512_store_ps(open.scales + (g * kPanels + i) * kPanelRows, s.scale);
    _mm512_store_ps(open.offsets + (g * kPanels + i) * kPanelRows, s.offset);
    open_group<kFormat>(at + layout.first_integer + g * layout.integers, open.tiles[i] + g * kTile);
  }
}

/// Rows [row, row + 16 · kTiles) of x with two panels.
template <WeightFormat kFormat, int kTiles>
inline void multiply_block(const IntegerProduct& p, const OpenPanels& open, std::int64_t row) {
  constexpr std::int64_t kRows = kTiles * kTileRows;
  alignas(64) float sums[2][kTiles * kPanels * kSums];
  alignas(64) float y[kRows][kPanels][kPanelRows];
  const Activations& x = p.x;
  for (auto& of_row : y) {
    for (auto& of_panel : of_row) _mm512_store_ps(of_panel, _mm512_setzero_ps());
  }
  // The outputs are written at the end; their lines come meanwhile.
  for (std::int64_t r = row; r < std::min(row + kRows, x.rows); ++r) {
    const float* const to = p.y.row<float>(r) + open.first * kPanelRows;
    __builtin_prefetch(to, 1);
    __builtin_prefetch(to + kPanelRows, 1);
  }
  // While the tile unit multiplies a group, vectors add up the one before: eight rows a call.
  const auto add = [&](std::int64_t g, std::int64_t first) {
    if (g < 0) return;
    const Scales s[kPanels] = {{_mm512_load_ps(open.scales + g * kPanels * kPanelRows),
                                _mm512_load_ps(open.offsets + g * kPanels * kPanelRows)},
                               {_mm512_load_ps(open.scales + (g * kPanels + 1) * kPanelRows),
                                _mm512_load_ps(open.offsets + (g * kPanels + 1) * kPanelRows)}};
    const float* from = sums[g & 1] + first / kTileRows * kPanels * kSums + first % kTileRows * kPanelRows;
    for (std::int64_t r = first; r < first + 8; ++r, from += kPanelRows) {
      for (int i = 0; i < kPanels; ++i) {
        float* const to = y[r][i];
        const __m512 part = _mm512_load_ps(from + i * kSums);
        _mm512_store_ps(to, add_group<kFormat>(_mm512_load_ps(to), part, s[i], x, (row + r) * x.groups + g));
      }
    }
  };
  for (std::int64_t g = 0; g < x.groups; ++g) {
    float* const to = sums[g & 1];
    _tile_loadd(4, x.wide + x.group(row, g), 64);
    _tile_loadd(5, open.tiles[0] + g * kTile, 64);
    _tile_zero(0);
    _tile_dpbf16ps(0, 4, 5);
    add(g - 1, 0);
    _tile_loadd(6, open.tiles[1] + g * kTile, 64);
    _tile_zero(1);
    _tile_dpbf16ps(1, 4, 6);
    add(g - 1, 8);
    if constexpr (kTiles == 2) {
      _tile_loadd(7, x.wide + x.group(row + kTileRows, g), 64);
      _tile_zero(2);
      _tile_dpbf16ps(2, 7, 5);
      add(g - 1, 16);
      _tile_zero(3);
      _tile_dpbf16ps(3, 7, 6);
      add(g - 1, 24);
    }
    _tile_stored(0, to, 64);
    _tile_stored(1, to + kSums, 64);
    if constexpr (kTiles == 2) {
      _tile_stored(2, to + 2 * kSums, 64);
      _tile_stored(3, to + 3 * kSums, 64);
    }
  }
  for (std::int64_t r = 0; r < kRows; r += 8) add(x.groups - 1, r);
  for (std::int64_t i = 0; i < open.count; ++i) {
    const Outputs outputs(p, open.first + i);
    for (std::int64_t r = 0; r < std::min(kRows, x.rows - row); ++r)
      outputs.put(row + r, _mm512_load_ps(y[r][i]));
  }
}

/// All rows of x with panels `panel` and the next one.
template <WeightFormat kFormat>
void multiply_panels(const IntegerProduct& p, const PanelLayout& layout, std::int64_t panel) {
  thread_local Buffer memory;
  const std::int64_t groups = layout.groups, tiles = groups * kTile * 2,
                     floats = groups * kPanels * kPanelRows * 4;
  char* const at = thread_memory<char>(memory, kPanels * tiles + 2 * floats);
  const OpenPanels open{panel,
                        std::min(kPanels, panel_count(p.w.rows) - panel),
                        {reinterpret_cast<bf16*>(at), reinterpret_cast<bf16*>(at + tiles)},
                        reinterpret_cast<float*>(at + kPanels * tiles),
                        reinterpret_cast<float*>(at + kPanels * tiles + floats)};
  for (std::int64_t i = 0; i < kPanels; ++i) open_panel<kFormat>(p, layout, open, i);
  std::int64_t row = 0;
  for (; row + kTileRows < p.x.rows; row += 2 * kTileRows) multiply_block<kFormat, 2>(p, open, row);
  if (row < p.x.rows) multiply_block<kFormat, 1>(p, open, row);
}

template <WeightFormat kFormat>
void multiply(const IntegerProduct& p, In from) {
  const PanelLayout layout(kFormat, p.w.cols);
  const Activations& x = p.x;
  const std::int64_t panels = panel_count(p.w.rows), whole = (x.rows + 31) / 32 * 32;
#pragma omp parallel if (x.rows * p.w.rows * p.w.cols > 16 * kParallelElements)
  {
#pragma omp for schedule(static)
    for (std::int64_t row = 0; row < whole; ++row) {
      if (row < x.rows) {
        quantise_row_avx512(x, from, row);
        continue;
      }
      for (std::int64_t g = 0; g < x.groups; ++g) {
        std::fill_n(x.wide + x.group(row, g), kWeightGroup, bf16());
        x.note(row, g, 0.0f, 0);
      }
    }
    static constexpr TileConfig kTiles{};
    _tile_loadconfig(&kTiles);
#pragma omp for schedule(dynamic, 1) nowait
    for (std::int64_t panel = 0; panel < panels; panel += kPanels) multiply_panels<kFormat>(p, layout, panel);
    _tile_release();
  }
}

}  // namespace

void integer_product_amx(const IntegerProduct& p, In x) {
  switch (p.w.format) {
    case WeightFormat::int8:
      return multiply<WeightFormat::int8>(p, x);
    case WeightFormat::int4:
      return multiply<WeightFormat::int4>(p, x);
    case WeightFormat::int4_f16:
      return multiply<WeightFormat::int4_f16>(p, x);
    case WeightFormat::bf16:
      break;
  }
  require(false, "not an integer format");
}

STEM_AMX_END

#else

void integer_product_amx(const IntegerProduct&, In) {
  require(false, "integer_product_amx without AMX");
}

#endif

}  // namespace stem::cpu
