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

constexpr std::int64_t kVectors = kPanelRows / kLanes;  // of 16 outputs
using Ints = hn::RebindToSigned<Floats>;
using IntVec = hn::Vec<Ints>;

/// Σ over four k of the unsigned bytes at `w` [lanes][4] times x[0 .. 4), added to `sum`. Bytes travel as
/// 32-bit numbers whose products fit 16 bits: a fused multiplication of pairs does not exist everywhere.
HWY_INLINE IntVec add_quad(IntVec sum, hn::Vec<Words> w, const std::int8_t* x) {
  const Words du;
  const Ints di;
  const auto low = hn::Set(du, 255u);
  const auto times = [&](hn::Vec<Words> bytes, std::int8_t value)
                         HWY_ATTR { return hn::Mul(hn::BitCast(di, bytes), hn::Set(di, value)); };
  sum = hn::Add(sum, times(hn::And(w, low), x[0]));
  sum = hn::Add(sum, times(hn::And(hn::ShiftRight<8>(w), low), x[1]));
  sum = hn::Add(sum, times(hn::And(hn::ShiftRight<16>(w), low), x[2]));
  return hn::Add(sum, times(hn::ShiftRight<24>(w), x[3]));
}

struct OpenGroup {
  alignas(64) std::uint8_t integers[kPanelRows * kWeightGroup];  // [8][16][4]
  alignas(64) float scale[kPanelRows];
  alignas(64) float offset[kPanelRows];
};

void open_group(const IntegerProduct& p, const PanelLayout& layout, const std::uint8_t* panel, std::int64_t g,
                OpenGroup& open) {
  const std::uint8_t* const scales = panel + layout.first_scale + g * layout.scales;
  const auto* const head = reinterpret_cast<const float*>(panel);
  for (std::int64_t n = 0; n < kPanelRows; ++n) {
    if (p.w.format == WeightFormat::int4) {
      open.scale[n] = head[n] * static_cast<float>(scales[n]);
      open.offset[n] = head[kPanelRows + n] * static_cast<float>(scales[kPanelRows + n]);
    } else {
      open.scale[n] = half_at(scales, n);
      open.offset[n] = p.w.format == WeightFormat::int4_f16 ? half_at(scales, kPanelRows + n) : 0.0f;
    }
  }
  const std::uint8_t* const from = panel + layout.first_integer + g * layout.integers;
  if (p.w.format == WeightFormat::int8) {
    std::memcpy(open.integers, from, sizeof(open.integers));
    return;
  }
  const std::int64_t half_bytes = layout.integers;
  for (std::int64_t i = 0; i < half_bytes; ++i) {
    open.integers[i] = from[i] & 15;
    open.integers[half_bytes + i] = static_cast<std::uint8_t>(from[i] >> 4);
  }
}

/// Rows [first, last) of x, at most kRowBlock, with one panel.
constexpr std::int64_t kRowBlock = 32;
void multiply_panel(const IntegerProduct& p, const PanelLayout& layout, std::int64_t panel,
                    std::int64_t first, std::int64_t last) {
  const std::uint8_t* const at = p.panel(panel);
  alignas(64) float y[kRowBlock][kPanelRows] = {};
  OpenGroup open;
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    open_group(p, layout, at, g, open);
    for (std::int64_t r = first; r < last; ++r) {
      const std::int64_t i = r * layout.groups + g;
      const std::int8_t* const q = p.x.q + p.x.group(r, g);
      for (std::int64_t v = 0; v < kVectors; ++v) {
        IntVec sum = hn::Set(Ints(), p.w.format == WeightFormat::int8 ? p.x.shift[i] : 0);
        for (std::int64_t j = 0; j < kWeightGroup / 4; ++j) {
          const auto* const bytes = open.integers + (j * kPanelRows + v * kLanes) * 4;
          sum = add_quad(sum, hn::LoadU(Words(), reinterpret_cast<const std::uint32_t*>(bytes)), q + 4 * j);
        }
        const Vec part = hn::Mul(hn::ConvertTo(Floats(), sum), set(p.x.scale[i]));
        float* const to = y[r - first] + v * kLanes;
        Vec value = hn::MulAdd(part, load(open.scale + v * kLanes), load(to));
        if (p.w.format != WeightFormat::int8)
          value = hn::MulAdd(set(p.x.sum[i]), load(open.offset + v * kLanes), value);
        store(value, to);
      }
    }
  }
  const std::int64_t outs = std::min(kPanelRows, p.w.rows - panel * kPanelRows);
  for (std::int64_t r = first; r < last; ++r) {
    float* const to = p.y.row<float>(r) + panel * kPanelRows;
    for (std::int64_t n = 0; n < outs; ++n) to[n] = p.accumulate ? to[n] + y[r - first][n] : y[r - first][n];
  }
}

void integer_product(const IntegerProduct& p, In from) {
  const PanelLayout layout(p.w.format, p.w.cols);
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
    multiply_panel(p, layout, task / blocks, first, std::min(x.rows, first + kRowBlock));
  }
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
