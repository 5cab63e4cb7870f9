// Weights for inference: packing, rows of embeddings, and the products that have no instruction set to
// themselves (served_avx512.cc, served_amx.cc and linear_amx.cc do).
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/workspace.h"

#include "kernels/cpu/families.h"
#include "kernels/cpu/served_panels.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/served.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

using Ints = hn::RebindToSigned<Floats>;
using IntVec = hn::Vec<Ints>;
using WordVec = hn::Vec<Words>;

constexpr std::int64_t kVectors = kPanelRows / kLanes;          // of 16 outputs
constexpr std::int64_t kColumns = kVectors < 2 ? kVectors : 2;  // of them, as many as registers hold sums of
constexpr std::int64_t kQuads = kWeightGroup / 4;               // fours of values of k in a group

// Sums of products of four unsigned bytes below 16 with four signed ones in each 32-bit lane. Those of a
// group fit 16 bits, where an instruction multiplies bytes and adds pairs.
static_assert(kQuads * 2 * 15 * 127 <= 32767);

#if HWY_TARGET == HWY_SCALAR
using Sums = IntVec;
HWY_INLINE Sums no_sums() {
  return hn::Zero(Ints());
}
HWY_INLINE Sums add_quad(Sums sums, WordVec w, WordVec x) {
  const std::uint32_t bytes = hn::GetLane(w), values = hn::GetLane(x);
  std::int32_t sum = hn::GetLane(sums);
  for (int i = 0; i < 32; i += 8)
    sum += static_cast<std::int32_t>(bytes >> i & 255) * static_cast<std::int8_t>(values >> i & 255);
  return hn::Set(Ints(), sum);
}
HWY_INLINE IntVec add_up(Sums sums) {
  return sums;
}
#else
using Shorts = hn::Repartition<std::int16_t, Floats>;
using Sums = hn::Vec<Shorts>;
HWY_INLINE Sums no_sums() {
  return hn::Zero(Shorts());
}
HWY_INLINE Sums multiply_pairs(WordVec w, WordVec x) {
#if HWY_TARGET == HWY_SSE4
  return Sums{_mm_maddubs_epi16(w.raw, x.raw)};
#elif HWY_TARGET == HWY_AVX2
  return Sums{_mm256_maddubs_epi16(w.raw, x.raw)};
#elif HWY_TARGET == HWY_AVX3
  return Sums{_mm512_maddubs_epi16(w.raw, x.raw)};
#else
  const Shorts d;
  const Sums both_w = hn::BitCast(d, w), both_x = hn::BitCast(d, x);
  const Sums even_w = hn::And(both_w, hn::Set(d, 255)), odd_w = hn::ShiftRight<8>(both_w);
  const Sums even_x = hn::ShiftRight<8>(hn::ShiftLeft<8>(both_x)), odd_x = hn::ShiftRight<8>(both_x);
  return hn::Add(hn::Mul(even_w, even_x), hn::Mul(odd_w, odd_x));
#endif
}
HWY_INLINE Sums add_quad(Sums sums, WordVec w, WordVec x) {
  return hn::Add(sums, multiply_pairs(w, x));
}
HWY_INLINE IntVec add_up(Sums sums) {
  const IntVec both = hn::BitCast(Ints(), sums);
  return hn::Add(hn::ShiftRight<16>(hn::ShiftLeft<16>(both)), hn::ShiftRight<16>(both));
}
#endif

/// One group of a panel, its integers as bytes below 16: an int8 weight is two of them, the upper one in the
/// second plane.
struct OpenGroup {
  alignas(64) std::uint32_t quads[2][kQuads * kPanelRows];  // [8][16] of four values of k
  alignas(64) float scale[kPanelRows];
  alignas(64) float offset[kPanelRows];
};

template <WeightFormat kFormat>
HWY_INLINE void open_group(const PanelLayout& layout, const std::uint8_t* panel, std::int64_t g,
                           OpenGroup& open) {
  const std::uint8_t* const scales = panel + layout.first_scale + g * layout.scales;
  const auto halves = [&](std::int64_t first) HWY_ATTR {
    const hn::Rebind<hwy::float16_t, Floats> d;
    return hn::PromoteTo(Floats(), hn::LoadU(d, reinterpret_cast<const hwy::float16_t*>(scales) + first));
  };
  const auto bytes = [&](std::int64_t first) HWY_ATTR {
    const hn::Rebind<std::uint8_t, Floats> d;
    return hn::ConvertTo(Floats(), hn::PromoteTo(Ints(), hn::LoadU(d, scales + first)));
  };
  for (std::int64_t n = 0; n < kPanelRows; n += kLanes) {
    if constexpr (kFormat == WeightFormat::int4) {
      const auto* const head = reinterpret_cast<const float*>(panel);
      store(hn::Mul(load(head + n), bytes(n)), open.scale + n);
      store(hn::Mul(load(head + kPanelRows + n), bytes(kPanelRows + n)), open.offset + n);
    } else {
      store(halves(n), open.scale + n);
      if constexpr (kFormat == WeightFormat::int4_f16) store(halves(kPanelRows + n), open.offset + n);
    }
  }
  // The upper halves of int4's bytes are the second half of the group, those of int8's the second plane.
  const std::int64_t words = layout.integers / 4;
  const auto* const from =
      reinterpret_cast<const std::uint32_t*>(panel + layout.first_integer + g * layout.integers);
  std::uint32_t* const to = open.quads[0];
  const WordVec low = hn::Set(Words(), 0x0f0f0f0fu);
  for (std::int64_t i = 0; i < words; i += kLanes) {
    const WordVec both = hn::LoadU(Words(), from + i);
    hn::Store(hn::And(both, low), Words(), to + i);
    hn::Store(hn::And(hn::ShiftRight<4>(both), low), Words(), to + words + i);
  }
}

/// Adds group g of rows [row, row + kRows) of x times a panel to y [kRows, 16].
template <WeightFormat kFormat, int kRows>
HWY_INLINE void add_group(const Activations& x, const OpenGroup& open, std::int64_t row, std::int64_t g,
                          float* y) {
  const auto number = [&](int r) { return (row + r) * x.groups + g; };
  for (std::int64_t first = 0; first < kPanelRows; first += kColumns * kLanes) {
    IntVec sums[kRows][kColumns];
    for (int r = 0; r < kRows; ++r) {
      for (auto& sum : sums[r]) sum = hn::Set(Ints(), kFormat == WeightFormat::int8 ? x.shift[number(r)] : 0);
    }
    for (int plane = 0; plane < (kFormat == WeightFormat::int8 ? 2 : 1); ++plane) {
      Sums parts[kRows][kColumns];
      for (auto& of_row : parts) {
        for (Sums& part : of_row) part = no_sums();
      }
      for (std::int64_t j = 0; j < kQuads; ++j) {
        WordVec w[kColumns];
        for (std::int64_t c = 0; c < kColumns; ++c)
          w[c] = hn::Load(Words(), open.quads[plane] + j * kPanelRows + first + c * kLanes);
        for (int r = 0; r < kRows; ++r) {
          std::uint32_t four;
          std::memcpy(&four, x.q + x.group(row + r, g) + 4 * j, sizeof(four));
          const WordVec values = hn::Set(Words(), four);
          for (std::int64_t c = 0; c < kColumns; ++c) parts[r][c] = add_quad(parts[r][c], w[c], values);
        }
      }
      for (int r = 0; r < kRows; ++r) {
        for (std::int64_t c = 0; c < kColumns; ++c) {
          const IntVec part = add_up(parts[r][c]);
          sums[r][c] = hn::Add(sums[r][c], plane == 0 ? part : hn::ShiftLeft<4>(part));
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (std::int64_t c = 0; c < kColumns; ++c) {
        const std::int64_t n = first + c * kLanes;
        float* const to = y + r * kPanelRows + n;
        const Vec part = hn::Mul(hn::ConvertTo(Floats(), sums[r][c]), set(x.scale[number(r)]));
        Vec value = hn::MulAdd(part, load(open.scale + n), load(to));
        if constexpr (kFormat != WeightFormat::int8)
          value = hn::MulAdd(set(x.sum[number(r)]), load(open.offset + n), value);
        store(value, to);
      }
    }
  }
}

/// Rows [first, last) of x, at most kRowBlock, with one panel.
constexpr std::int64_t kRowBlock = 32;
template <WeightFormat kFormat>
void multiply_panel(const IntegerProduct& p, const PanelLayout& layout, std::int64_t panel,
                    std::int64_t first, std::int64_t last) {
  const std::uint8_t* const at = p.panel(panel);
  alignas(64) float y[kRowBlock][kPanelRows];
  std::memset(y, 0, static_cast<std::size_t>(last - first) * sizeof(y[0]));
  OpenGroup open;
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    open_group<kFormat>(layout, at, g, open);
    std::int64_t row = first;
    for (; row + 4 <= last; row += 4) add_group<kFormat, 4>(p.x, open, row, g, y[row - first]);
    for (; row < last; ++row) add_group<kFormat, 1>(p.x, open, row, g, y[row - first]);
  }
  const std::int64_t outs = std::min(kPanelRows, p.w.rows - panel * kPanelRows);
  for (std::int64_t r = first; r < last; ++r) {
    float* const to = p.y.row<float>(r) + panel * kPanelRows;
    for (std::int64_t n = 0; n < outs; ++n) to[n] = p.accumulate ? to[n] + y[r - first][n] : y[r - first][n];
  }
}

template <WeightFormat kFormat>
void multiply(const IntegerProduct& p, In from) {
  const PanelLayout layout(kFormat, p.w.cols);
  const Activations& x = p.x;
#pragma omp parallel for schedule(static) if (from.size() > kParallelElements)
  for (std::int64_t row = 0; row < x.rows; ++row) {
    for (std::int64_t g = 0; g < x.groups; ++g) {
      const std::int64_t count = std::min(kWeightGroup, from.cols - g * kWeightGroup);
      std::int8_t* const q = x.q + x.group(row, g);
      float scale = 0.0f;
      quantise_activations({from.row<float>(row) + g * kWeightGroup, static_cast<std::size_t>(count)}, q,
                           &scale);
      std::int32_t total = 0;
      for (std::int64_t i = 0; i < kWeightGroup; ++i) total += q[i];
      x.note(row, g, scale, total);
    }
  }
  const std::int64_t panels = panel_count(p.w.rows), blocks = (x.rows + kRowBlock - 1) / kRowBlock;
#pragma omp parallel for schedule(static) if (x.rows * p.w.rows * p.w.cols > 16 * kParallelElements)
  for (std::int64_t task = 0; task < panels * blocks; ++task) {
    const std::int64_t first = task % blocks * kRowBlock;
    multiply_panel<kFormat>(p, layout, task / blocks, first, std::min(x.rows, first + kRowBlock));
  }
}

void integer_product(const IntegerProduct& p, In x) {
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

}  // namespace

using IntegerKernel = void (*)(const IntegerProduct&, In);
IntegerKernel integer_kernel() {
  return integer_product;
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/gemm_amx.h"

namespace stem::cpu {
HWY_EXPORT(integer_kernel);

void integer_product_vectors(const IntegerProduct& product, In x) {
  HWY_DYNAMIC_DISPATCH(integer_kernel)()(product, x);
}

namespace {

// bf16: packed for the tile unit where there is one, else row by row as it was stored.
In rows_of(const ServedMatrix& w) {
  return {w.data, DType::bf16, w.rows, w.cols, w.cols};
}

std::size_t bytes(WeightFormat format, std::int64_t rows, std::int64_t cols) {
  if (format != WeightFormat::bf16)
    return static_cast<std::size_t>(PanelLayout(format, cols).bytes * panel_count(rows));
  const In shape{nullptr, DType::bf16, rows, cols, cols};
  return amx_supported() ? amx_packed_bytes(shape, true) : static_cast<std::size_t>(rows * cols * 2);
}

/// Row n of a stored matrix into lane n of its panel. What has no row or no value is zero, as in the store.
void pack_row(std::uint8_t* panel, const PanelLayout& layout, const StoredMatrix& from, std::int64_t row) {
  const std::int64_t n = row % kPanelRows;
  const auto* stored = reinterpret_cast<const std::uint8_t*>(from.row(row));
  if (from.format == WeightFormat::int4) {
    std::uint32_t units = 0;
    std::memcpy(&units, stored, sizeof(units));
    const std::uint32_t d = units << 16, m = (units & 0xffff0000u) ^ 0x80000000u;
    std::memcpy(panel + 4 * n, &d, sizeof(d));
    std::memcpy(panel + 4 * (kPanelRows + n), &m, sizeof(m));
    stored += sizeof(units);
  }
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    std::uint8_t* const scales = panel + layout.first_scale + g * layout.scales;
    std::uint8_t* const integers = panel + layout.first_integer + g * layout.integers;
    const std::int64_t scale_bytes = layout.scales / kPanelRows;
    if (from.format == WeightFormat::int4) {
      scales[n] = stored[0];
      scales[kPanelRows + n] = stored[1];
    } else {
      for (std::int64_t i = 0; i < scale_bytes; i += 2)
        std::memcpy(scales + i * kPanelRows + 2 * n, stored + i, 2);
    }
    stored += scale_bytes;
    const std::int64_t count = layout.integers / kPanelRows;  // bytes of this row
    const std::uint8_t flip = from.format == WeightFormat::int8 ? 128 : 0;
    for (std::int64_t i = 0; i < count; ++i)
      integers[(i / 4 * kPanelRows + n) * 4 + i % 4] = static_cast<std::uint8_t>(stored[i] ^ flip);
    stored += count;
  }
}

void pack(void* to, const StoredMatrix& from) {
  if (from.format == WeightFormat::bf16) {
    const In rows{from.data, DType::bf16, from.rows, from.cols, from.cols};
    if (amx_supported()) return amx_pack(to, rows, true);
    if (rows.size() > 0) std::memcpy(to, from.data, static_cast<std::size_t>(rows.size() * 2));
    return;
  }
  const PanelLayout layout(from.format, from.cols);
  const std::int64_t panels = panel_count(from.rows);
#pragma omp parallel for schedule(static) if (from.rows * from.cols > kParallelElements)
  for (std::int64_t p = 0; p < panels; ++p) {
    auto* const panel = static_cast<std::uint8_t*>(to) + p * layout.bytes;
    std::memset(panel, 0, static_cast<std::size_t>(layout.bytes));
    for (std::int64_t row = p * kPanelRows; row < std::min(from.rows, (p + 1) * kPanelRows); ++row)
      pack_row(panel, layout, from, row);
  }
}

/// Memory of the activations of one product; the engine's thread calls, all threads read.
Activations activations(const In& x, std::int64_t groups, bool wide) {
  thread_local Buffer memory;
  const std::int64_t rows = (x.rows + 31) / 32 * 32;  // whole blocks of tiles
  const std::int64_t values = rows * groups * kWeightGroup * (wide ? 2 : 1), floats = rows * groups * 4;
  const auto needed = static_cast<std::size_t>(values + 3 * floats);
  if (memory.size() < needed) memory = Buffer(needed);
  auto* const at = static_cast<char*>(memory.data());
  return {x.rows,
          groups,
          wide ? nullptr : reinterpret_cast<std::int8_t*>(at),
          wide ? reinterpret_cast<bf16*>(at) : nullptr,
          reinterpret_cast<float*>(at + values),
          reinterpret_cast<float*>(at + values + floats),
          reinterpret_cast<std::int32_t*>(at + values + 2 * floats)};
}

void linear(Out y, In x, const ServedMatrix& w, bool accumulate) {
  require(x.dtype == DType::f32 && y.dtype == DType::f32, "served weights meet f32 alone");
  if (x.rows == 0) return;
  if (w.format == WeightFormat::bf16) {
    if (amx_supported()) return amx_linear(y, x, w.data, w.rows, accumulate);
    return linear_invariant_kernel()(y, x, rows_of(w), accumulate);
  }
  const bool tiles = amx_supported() && x.rows >= kTileRowsFrom;
  const IntegerProduct product{y, activations(x, weight_groups(w.cols), tiles), w, accumulate};
  if (tiles) return integer_product_amx(product, x);
  if (vnni_supported()) return integer_product_avx512(product, x);
  integer_product_vectors(product, x);
}

void gather_row(float* to, const ServedMatrix& w, std::int64_t row) {
  if (w.format == WeightFormat::bf16) {
    const auto* const packed = static_cast<const bf16*>(w.data);
    for (std::int64_t k = 0; k < w.cols; ++k) {
      const std::int64_t at = amx_supported() ? amx_packed_index(w.cols, row, k) : row * w.cols + k;
      to[k] = static_cast<float>(packed[at]);
    }
    return;
  }
  const PanelLayout layout(w.format, w.cols);
  const auto* const panel = static_cast<const std::uint8_t*>(w.data) + row / kPanelRows * layout.bytes;
  const std::int64_t n = row % kPanelRows;
  const auto* const head = reinterpret_cast<const float*>(panel);
  for (std::int64_t k = 0; k < w.cols; ++k) {
    const std::int64_t g = k / kWeightGroup, i = k % kWeightGroup, half_group = kWeightGroup / 2;
    const std::uint8_t* const scales = panel + layout.first_scale + g * layout.scales;
    const std::uint8_t* const integers = panel + layout.first_integer + g * layout.integers;
    const auto byte = [&](std::int64_t at) -> int {
      return integers[(at / 4 * kPanelRows + n) * 4 + at % 4];
    };
    const auto nibble = [&] { return i < half_group ? byte(i) & 15 : byte(i - half_group) >> 4; };
    if (w.format == WeightFormat::int8)
      to[k] = half_at(scales, n) * static_cast<float>(byte(i) - kIntegerOffset);
    else if (w.format == WeightFormat::int4)
      to[k] = head[n] * static_cast<float>(scales[n]) * static_cast<float>(nibble()) +
              head[kPanelRows + n] * static_cast<float>(scales[kPanelRows + n]);
    else
      to[k] = half_at(scales, n) * static_cast<float>(nibble()) + half_at(scales, kPanelRows + n);
  }
}

void gather(Out x, const ServedMatrix& w, std::span<const std::int32_t> ids) {
  const auto count = static_cast<std::int64_t>(ids.size());
#pragma omp parallel for schedule(static) if (count * w.cols > kParallelElements)
  for (std::int64_t n = 0; n < count; ++n) gather_row(x.row<float>(n), w, ids[static_cast<std::size_t>(n)]);
}

}  // namespace

ServedKernels served_kernels() {
  return {bytes, pack, linear, gather};
}

}  // namespace stem::cpu
#endif
