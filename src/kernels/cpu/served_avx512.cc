// Integer weights times int8 activations with AVX-512 VNNI, and on AMX tiles where rows are many. Sums within
// a group are integers, hence exact in any order; what follows them is the same sequence of f32 operations in
// both, so the bits agree.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/served_panels.h"

#if STEM_HAS_AMX
#include <cpuid.h>

#define STEM_VNNI_BEGIN                                                                          \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")     \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"") _Pragma("GCC push_options") _Pragma( \
          "GCC target(\"avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma,amx-tile,amx-int8\")")
#define STEM_VNNI_END _Pragma("GCC pop_options") _Pragma("GCC diagnostic pop")

STEM_VNNI_BEGIN

namespace stem::cpu {
namespace {

/// Mask of the first n of 16 lanes. (Inlining wants functions of the very same instruction sets.)
inline __mmask16 first16(std::int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff)
                 : static_cast<__mmask16>((1u << std::max<std::int64_t>(n, 0)) - 1);
}

constexpr std::int64_t kQuads = kWeightGroup / 4;  // vectors of a group

// Scales of a group, 16 rows; offsets where the format has them.
struct Scales {
  __m512 scale, offset;
};
template <WeightFormat kFormat>
inline Scales load_scales(const std::uint8_t* at) {
  const auto half = [](const std::uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  };
  const auto byte = [](const std::uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  };
  if constexpr (kFormat == WeightFormat::int4) return {byte(at), byte(at + kPanelRows)};
  if constexpr (kFormat == WeightFormat::int4_f16) return {half(at), half(at + 2 * kPanelRows)};
  return {half(at), _mm512_setzero_ps()};
}

// The integers of a group as unsigned bytes.
template <WeightFormat kFormat>
inline void load_integers(__m512i (&w)[kQuads], const std::uint8_t* at) {
  if constexpr (kFormat == WeightFormat::int8) {
    for (int j = 0; j < kQuads; ++j) w[j] = _mm512_load_si512(at + 64 * j);
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < kQuads / 2; ++j) {
      const __m512i both = _mm512_load_si512(at + 64 * j);
      w[j] = _mm512_and_si512(both, low);
      w[j + kQuads / 2] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
  }
}

// What the sums over groups make of a row's 16 outputs.
template <WeightFormat kFormat>
inline __m512 finish(const std::uint8_t* panel, __m512 scaled, __m512 offsets) {
  if constexpr (kFormat == WeightFormat::int4) {
    return _mm512_fmadd_ps(_mm512_load_ps(panel + 4 * kPanelRows), offsets,
                           _mm512_mul_ps(_mm512_load_ps(panel), scaled));
  }
  if constexpr (kFormat == WeightFormat::int4_f16) return _mm512_add_ps(scaled, offsets);
  return scaled;
}

/// Where the outputs of one panel go.
struct Outputs {
  float* y;  // of row 0
  std::int64_t stride;
  __mmask16 mask;
  bool accumulate;

  Outputs(const IntegerProduct& p, std::int64_t panel)
      : y(static_cast<float*>(p.y.data) + panel * kPanelRows),
        stride(p.y.stride),
        mask(first16(p.w.rows - panel * kPanelRows)),
        accumulate(p.accumulate) {}
  void put(std::int64_t row, __m512 value) const {
    float* const to = y + row * stride;
    if (accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
    _mm512_mask_storeu_ps(to, mask, value);
  }
};

constexpr std::int64_t kAhead = 4096;  // bytes of a panel that are asked for in advance

/// kRows rows of x with one panel.
template <WeightFormat kFormat, int kRows>
void multiply_panel(const IntegerProduct& p, const PanelLayout& layout, std::int64_t row,
                    std::int64_t panel) {
  const Activations& x = p.x;
  const std::uint8_t* const at = p.panel(panel);
  const std::uint8_t* scales = at + layout.first_scale;
  const std::uint8_t* integers = at + layout.first_integer;
  __m512 scaled[kRows], offsets[kRows];
  for (int r = 0; r < kRows; ++r) scaled[r] = offsets[r] = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < layout.groups; ++g, scales += layout.scales, integers += layout.integers) {
    for (std::int64_t i = 0; i < layout.integers; i += 64)
      _mm_prefetch(reinterpret_cast<const char*>(integers + i + kAhead), _MM_HINT_T0);
    const Scales s = load_scales<kFormat>(scales);
    __m512i w[kQuads];
    load_integers<kFormat>(w, integers);
    for (int r = 0; r < kRows; ++r) {
      const std::int64_t i = (row + r) * layout.groups + g;
      const std::int8_t* const values = x.group(row + r, g);
      __m512i sum = kFormat == WeightFormat::int8 ? _mm512_set1_epi32(x.shift[i]) : _mm512_setzero_si512();
      for (int j = 0; j < kQuads; ++j) {
        std::int32_t four;
        std::memcpy(&four, values + 4 * j, sizeof(four));
        sum = _mm512_dpbusd_epi32(sum, w[j], _mm512_set1_epi32(four));
      }
      const __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(x.scale[i]));
      scaled[r] = _mm512_fmadd_ps(part, s.scale, scaled[r]);
      if constexpr (kFormat != WeightFormat::int8)
        offsets[r] = _mm512_fmadd_ps(_mm512_set1_ps(x.sum[i]), s.offset, offsets[r]);
    }
  }
  const Outputs outputs(p, panel);
  for (int r = 0; r < kRows; ++r) outputs.put(row + r, finish<kFormat>(at, scaled[r], offsets[r]));
}

template <WeightFormat kFormat>
void multiply_rows(const IntegerProduct& p, const PanelLayout& layout, std::int64_t panel) {
  std::int64_t row = 0;
  for (; row + 4 <= p.x.rows; row += 4) multiply_panel<kFormat, 4>(p, layout, row, panel);
  for (; row + 2 <= p.x.rows; row += 2) multiply_panel<kFormat, 2>(p, layout, row, panel);
  for (; row < p.x.rows; ++row) multiply_panel<kFormat, 1>(p, layout, row, panel);
}

// ---- tiles
//
// A block is 16 or 32 rows of x times two panels. The tiles hold the sums of one group; those of kBatch
// groups wait in the first-level cache until vectors scale them and add them up, in the same order as above.

constexpr std::int64_t kTileRows = 16;
constexpr std::int64_t kPanels = 2;
constexpr std::int64_t kSums = kTileRows * kPanelRows;  // of a tile
constexpr std::int64_t kBatch = 4;                      // groups: 16 kB of sums
constexpr std::int64_t kTileRowsFrom = 9;               // rows of x from which tiles are faster than vectors

// Tiles 0 … 3: 16 × 16 sums. 4, 7: 16 rows of x, 32 values of k. 5, 6: 8 times 4 values of k, for 16 outputs.
struct alignas(64) IntegerTiles {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 32, 64, 64, 32};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 8, 8, 16};
};

/// Two panels taken apart, in the first- and second-level cache.
struct OpenPanels {
  std::int64_t first, count;  // panels of the matrix: one or two
  const std::uint8_t* data[kPanels];
  std::uint8_t* integers[kPanels];  // [groups][8][64]
  float* scales;                    // [groups][2][16]
  float* offsets;                   // [groups][2][16]
};

template <WeightFormat kFormat>
void open_panel(const PanelLayout& layout, OpenPanels& open, std::int64_t i) {
  const std::uint8_t* const at = open.data[i];
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    const Scales s = load_scales<kFormat>(at + layout.first_scale + g * layout.scales);
    _mm512_store_ps(open.scales + (g * kPanels + i) * kPanelRows, s.scale);
    _mm512_store_ps(open.offsets + (g * kPanels + i) * kPanelRows, s.offset);
    __m512i w[kQuads];
    load_integers<kFormat>(w, at + layout.first_integer + g * layout.integers);
    for (int j = 0; j < kQuads; ++j) _mm512_store_si512(open.integers[i] + (g * kQuads + j) * 64, w[j]);
  }
}

/// sums [last − first][kTiles][2][16][16]: of each group, rows from `row` on, and panel.
template <int kTiles>
inline void tile_sums(const OpenPanels& open, const Activations& a, std::int64_t row, std::int64_t first,
                      std::int64_t last, std::int32_t* sums) {
  for (std::int64_t g = first; g < last; ++g, sums += kTiles * kPanels * kSums) {
    _tile_loadd(4, a.group(row, g), kWeightGroup);
    _tile_loadd(5, open.integers[0] + g * kQuads * 64, 64);
    _tile_zero(0);
    _tile_dpbsud(0, 4, 5);
    _tile_loadd(6, open.integers[1] + g * kQuads * 64, 64);
    _tile_zero(1);
    _tile_dpbsud(1, 4, 6);
    if constexpr (kTiles == 2) {
      _tile_loadd(7, a.group(row + kTileRows, g), kWeightGroup);
      _tile_zero(2);
      _tile_dpbsud(2, 7, 5);
      _tile_zero(3);
      _tile_dpbsud(3, 7, 6);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + kSums, 64);
    if constexpr (kTiles == 2) {
      _tile_stored(2, sums + 2 * kSums, 64);
      _tile_stored(3, sums + 3 * kSums, 64);
    }
  }
}

/// What a block has summed over groups, for each row and panel.
struct alignas(64) BlockSums {
  float scaled[2 * kTileRows][kPanels][kPanelRows];
  float offsets[2 * kTileRows][kPanels][kPanelRows];
};

/// Adds the sums of groups [first, last) of rows r … r + 3 of the block, which is at row `row` of x.
template <WeightFormat kFormat, int kTiles>
inline void scale_sums(const Activations& x, const OpenPanels& open, std::int64_t row, std::int64_t r,
                       std::int64_t first, std::int64_t last, const std::int32_t* sums, BlockSums& block) {
  constexpr int kRows = 4;
  constexpr bool kOffsets = kFormat != WeightFormat::int8;
  __m512 scaled[kRows][kPanels], offsets[kRows][kPanels];
  for (int k = 0; k < kRows; ++k) {
    for (int i = 0; i < kPanels; ++i) {
      scaled[k][i] = first == 0 ? _mm512_setzero_ps() : _mm512_load_ps(block.scaled[r + k][i]);
      if constexpr (kOffsets)
        offsets[k][i] = first == 0 ? _mm512_setzero_ps() : _mm512_load_ps(block.offsets[r + k][i]);
    }
  }
  sums += r / kTileRows * kPanels * kSums + r % kTileRows * kPanelRows;
  for (std::int64_t g = first; g < last; ++g, sums += kTiles * kPanels * kSums) {
    const float* const scale = open.scales + g * kPanels * kPanelRows;
    const float* const offset = open.offsets + g * kPanels * kPanelRows;
    for (int k = 0; k < kRows; ++k) {
      const std::int64_t at = (row + r + k) * x.groups + g;
      const __m512 factor = _mm512_set1_ps(x.scale[at]);
      for (int i = 0; i < kPanels; ++i) {
        __m512i sum = _mm512_load_si512(sums + i * kSums + k * kPanelRows);
        if constexpr (!kOffsets) sum = _mm512_add_epi32(sum, _mm512_set1_epi32(x.shift[at]));
        const __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), factor);
        scaled[k][i] = _mm512_fmadd_ps(part, _mm512_load_ps(scale + i * kPanelRows), scaled[k][i]);
        if constexpr (kOffsets)
          offsets[k][i] = _mm512_fmadd_ps(_mm512_set1_ps(x.sum[at]), _mm512_load_ps(offset + i * kPanelRows),
                                          offsets[k][i]);
      }
    }
  }
  for (int k = 0; k < kRows; ++k) {
    for (int i = 0; i < kPanels; ++i) {
      _mm512_store_ps(block.scaled[r + k][i], scaled[k][i]);
      if constexpr (kOffsets) _mm512_store_ps(block.offsets[r + k][i], offsets[k][i]);
    }
  }
}

template <WeightFormat kFormat, int kTiles>
inline void multiply_block(const IntegerProduct& p, const OpenPanels& open, std::int64_t row) {
  alignas(64) std::int32_t sums[kBatch * kTiles * kPanels * kSums];
  BlockSums block;  // written by the first batch
  for (std::int64_t g = 0; g < p.x.groups; g += kBatch) {
    const std::int64_t last = std::min(p.x.groups, g + kBatch);
    tile_sums<kTiles>(open, p.x, row, g, last, sums);
    for (std::int64_t r = 0; r < kTiles * kTileRows; r += 4)
      scale_sums<kFormat, kTiles>(p.x, open, row, r, g, last, sums, block);
  }
  const std::int64_t rows = std::min(kTiles * kTileRows, p.x.rows - row);
  for (std::int64_t i = 0; i < open.count; ++i) {
    const Outputs outputs(p, open.first + i);
    for (std::int64_t r = 0; r < rows; ++r) {
      const __m512 scaled = _mm512_load_ps(block.scaled[r][i]);
      const __m512 offsets =
          kFormat == WeightFormat::int8 ? _mm512_setzero_ps() : _mm512_load_ps(block.offsets[r][i]);
      outputs.put(row + r, finish<kFormat>(open.data[i], scaled, offsets));
    }
  }
}

/// All rows of x with panels `panel` and the next one.
template <WeightFormat kFormat>
void multiply_tiles(const IntegerProduct& p, const PanelLayout& layout, std::int64_t panel) {
  thread_local Buffer memory;
  const std::int64_t groups = layout.groups, integers = groups * kQuads * 64,
                     floats = groups * kPanels * kPanelRows;
  char* const at = amx::thread_memory<char>(memory, 2 * integers + 2 * floats * 4);
  const std::int64_t count = std::min(kPanels, panel_count(p.w.rows) - panel);
  OpenPanels open{panel,
                  count,
                  {p.panel(panel), p.panel(panel + count - 1)},
                  {reinterpret_cast<std::uint8_t*>(at), reinterpret_cast<std::uint8_t*>(at + integers)},
                  reinterpret_cast<float*>(at + 2 * integers),
                  reinterpret_cast<float*>(at + 2 * integers) + floats};
  for (std::int64_t i = 0; i < kPanels; ++i) open_panel<kFormat>(layout, open, i);
  std::int64_t row = 0;
  for (; row + kTileRows < p.x.rows; row += 2 * kTileRows) multiply_block<kFormat, 2>(p, open, row);
  if (row < p.x.rows) multiply_block<kFormat, 1>(p, open, row);
}

// ---- activations

void quantise_row(const Activations& x, In from, std::int64_t row) {
  const float* const values = from.row<float>(row);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (std::int64_t g = 0; g < x.groups; ++g) {
    const std::int64_t left = from.cols - g * kWeightGroup;
    const __m512 low = _mm512_maskz_loadu_ps(first16(left), values + g * kWeightGroup),
                 high = _mm512_maskz_loadu_ps(first16(left - 16), values + g * kWeightGroup + 16);
    const __m512i bits = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                          _mm512_and_si512(_mm512_castps_si512(high), magnitude));
    const std::uint32_t top_bits = _mm512_reduce_max_epu32(bits);
    const bool nothing = top_bits < std::bit_cast<std::uint32_t>(kLeastActivation);
    const float top = nothing ? 0.0f : std::bit_cast<float>(top_bits);
    const __m512 inverse = _mm512_set1_ps(nothing ? 0.0f : 127.0f / top);
    const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)),
                  second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
    auto* const q = reinterpret_cast<__m128i*>(x.group(row, g));
    _mm_storeu_si128(q, _mm512_cvtsepi32_epi8(first));
    _mm_storeu_si128(q + 1, _mm512_cvtsepi32_epi8(second));
    const int total = _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
    const std::int64_t at = row * x.groups + g;
    x.scale[at] = top / 127.0f;
    x.sum[at] = x.scale[at] * static_cast<float>(total);
    // Of a group with a NaN the total is anything; its scale is no number either.
    x.shift[at] = static_cast<std::int32_t>(-static_cast<std::uint32_t>(kIntegerOffset) *
                                            static_cast<std::uint32_t>(total));
  }
}

bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAmxInt8 = 1u << 25;
  static const bool has =
      amx_supported() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxInt8) != 0;
  return has;
}

template <WeightFormat kFormat>
void multiply(const IntegerProduct& p, In from) {
  const PanelLayout layout(kFormat, p.w.cols);
  const std::int64_t panels = panel_count(p.w.rows);
  const bool tiles = p.x.rows >= kTileRowsFrom && has_tiles();
  // A few rows are quicker quantised than threads meet at a barrier.
  const bool alone = p.x.rows < 4;
  for (std::int64_t row = 0; alone && row < p.x.rows; ++row) quantise_row(p.x, from, row);
#pragma omp parallel if (p.x.rows * p.w.rows * p.w.cols > 16 * kParallelElements)
  {
    if (!alone) {
#pragma omp for schedule(static)
      for (std::int64_t row = 0; row < p.x.rows; ++row) quantise_row(p.x, from, row);
    }
    if (tiles) {
      static constexpr IntegerTiles kTiles{};
      _tile_loadconfig(&kTiles);
#pragma omp for schedule(dynamic, 1) nowait
      for (std::int64_t panel = 0; panel < panels; panel += 2) multiply_tiles<kFormat>(p, layout, panel);
      _tile_release();
    } else {
#pragma omp for schedule(static) nowait
      for (std::int64_t panel = 0; panel < panels; ++panel) multiply_rows<kFormat>(p, layout, panel);
    }
  }
}

}  // namespace

bool vnni_supported() {
  static const bool supported = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31,
                       kVnni = 1u << 11;  // F, DQ, BW, VL
    return (b & kAvx512) == kAvx512 && (c & kVnni) != 0 && __builtin_cpu_supports("avx512f") != 0;
  }();
  return supported;
}

void integer_product_avx512(const IntegerProduct& p, In x) {
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

}  // namespace stem::cpu

STEM_VNNI_END

#else

namespace stem::cpu {
bool vnni_supported() {
  return false;
}
void integer_product_avx512(const IntegerProduct&, In) {
  require(false, "integer_product_avx512 without AVX-512");
}
}  // namespace stem::cpu

#endif
