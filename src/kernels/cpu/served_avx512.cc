// Integer weights times int8 activations with AVX-512 VNNI. Sums within a group are integers, hence exact in
// any order; what follows them is the same sequence of f32 operations on tiles (served_amx.cc) and in plain
// vectors (served.cc), so the bits agree.
#include "kernels/cpu/served_avx512.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/gemm_amx.h"

#if STEM_HAS_AMX
#include <cpuid.h>

STEM_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")

namespace stem::cpu {
namespace {

using amx::first16;

constexpr std::int64_t kAhead = 4096;  // bytes of a panel that are asked for in advance

/// kRows rows of x with one panel.
template <WeightFormat kFormat, int kRows>
void multiply_panel(const IntegerProduct& p, const PanelLayout& layout, std::int64_t row,
                    std::int64_t panel) {
  const Activations& x = p.x;
  const std::uint8_t* const at = p.panel(panel);
  const std::uint8_t* scales = at + layout.first_scale;
  const std::uint8_t* integers = at + layout.first_integer;
  __m512 y[kRows];
  for (int r = 0; r < kRows; ++r) y[r] = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < layout.groups; ++g, scales += layout.scales, integers += layout.integers) {
    for (std::int64_t i = 0; i < layout.integers; i += 64)
      _mm_prefetch(reinterpret_cast<const char*>(integers + i + kAhead), _MM_HINT_T0);
    const Scales s = load_scales<kFormat>(at, scales);
    __m512i w[kQuads];
    load_integers<kFormat>(w, integers);
    for (int r = 0; r < kRows; ++r) {
      const std::int64_t i = (row + r) * layout.groups + g;
      const std::int8_t* const values = x.q + x.group(row + r, g);
      __m512i sum = kFormat == WeightFormat::int8 ? _mm512_set1_epi32(x.shift[i]) : _mm512_setzero_si512();
      for (int j = 0; j < kQuads; ++j) {
        std::int32_t four;
        std::memcpy(&four, values + 4 * j, sizeof(four));
        sum = _mm512_dpbusd_epi32(sum, w[j], _mm512_set1_epi32(four));
      }
      y[r] = add_group<kFormat>(y[r], _mm512_cvtepi32_ps(sum), s, x, i);
    }
  }
  const Outputs outputs(p, panel);
  for (int r = 0; r < kRows; ++r) outputs.put(row + r, y[r]);
}

template <WeightFormat kFormat>
void multiply_rows(const IntegerProduct& p, const PanelLayout& layout, std::int64_t panel) {
  std::int64_t row = 0;
  for (; row + 4 <= p.x.rows; row += 4) multiply_panel<kFormat, 4>(p, layout, row, panel);
  for (; row + 2 <= p.x.rows; row += 2) multiply_panel<kFormat, 2>(p, layout, row, panel);
  for (; row < p.x.rows; ++row) multiply_panel<kFormat, 1>(p, layout, row, panel);
}

template <WeightFormat kFormat>
void multiply(const IntegerProduct& p, In from) {
  const PanelLayout layout(kFormat, p.w.cols);
  const std::int64_t panels = panel_count(p.w.rows);
  // A few rows are quicker quantised than threads meet at a barrier.
  const bool alone = p.x.rows < 4;
  for (std::int64_t row = 0; alone && row < p.x.rows; ++row) quantise_row_avx512(p.x, from, row);
#pragma omp parallel if (p.x.rows * p.w.rows * p.w.cols > 16 * kParallelElements)
  {
    if (!alone) {
#pragma omp for schedule(static)
      for (std::int64_t row = 0; row < p.x.rows; ++row) quantise_row_avx512(p.x, from, row);
    }
#pragma omp for schedule(static) nowait
    for (std::int64_t panel = 0; panel < panels; ++panel) multiply_rows<kFormat>(p, layout, panel);
  }
}

}  // namespace

void quantise_row_avx512(const Activations& to, In x, std::int64_t row) {
  const float* const values = x.row<float>(row);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  for (std::int64_t g = 0; g < to.groups; ++g) {
    const std::int64_t left = x.cols - g * kWeightGroup;
    const __m512 low = _mm512_maskz_loadu_ps(first16(left), values + g * kWeightGroup),
                 high = _mm512_maskz_loadu_ps(first16(left - 16), values + g * kWeightGroup + 16);
    const __m512i bits = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                          _mm512_and_si512(_mm512_castps_si512(high), magnitude));
    const std::uint32_t top_bits = _mm512_reduce_max_epu32(bits);
    const bool nothing = top_bits < std::bit_cast<std::uint32_t>(kLeastActivation);
    const float top = nothing ? 0.0f : std::bit_cast<float>(top_bits);
    const __m512 inverse = _mm512_set1_ps(nothing ? 0.0f : 127.0f / top);
    // Within −127 … 127, but for a group with a NaN or an infinity: those are cut off, as bytes are.
    const auto bytes = [&](__m512 v) {
      return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, inverse)));
    };
    const __m128i first = bytes(low), second = bytes(high);
    const std::int64_t at = to.group(row, g);
    if (to.q != nullptr) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to.q + at), first);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to.q + at + 16), second);
    } else {
      // Integers this small lie in the upper half of a float.
      const auto upper = [](__m128i v) {
        const __m512 number = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(v));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(number), 16));
      };
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.wide + at), upper(first));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.wide + at + 16), upper(second));
    }
    const int total =
        _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_cvtepi8_epi32(first), _mm512_cvtepi8_epi32(second)));
    to.note(row, g, top / 127.0f, total);
  }
}

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

STEM_TARGET_END

#else

namespace stem::cpu {
bool vnni_supported() {
  return false;
}
void integer_product_avx512(const IntegerProduct&, In) {
  require(false, "integer_product_avx512 without AVX-512");
}
void quantise_row_avx512(const Activations&, In, std::int64_t) {
  require(false, "quantise_row_avx512 without AVX-512");
}
}  // namespace stem::cpu

#endif
