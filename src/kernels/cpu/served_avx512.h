// What products with integer weights share between VNNI (served_avx512.cc) and AMX tiles (served_amx.cc).
#pragma once

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/served_panels.h"

#if STEM_HAS_AMX

// No more than both of them allow: functions are inlined where the caller may use all that they do.
STEM_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq")

namespace stem::cpu {

constexpr std::int64_t kQuads = kWeightGroup / 4;  // vectors of a group

/// What the 16 rows of a panel multiply the sums of one group with, and what they add for each unit of x.
struct Scales {
  __m512 scale, offset;
};
template <WeightFormat kFormat>
inline Scales load_scales(const std::uint8_t* panel, const std::uint8_t* at) {
  const auto half = [](const std::uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  };
  const auto byte = [](const std::uint8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  };
  if constexpr (kFormat == WeightFormat::int4) {
    return {_mm512_mul_ps(_mm512_load_ps(panel), byte(at)),
            _mm512_mul_ps(_mm512_load_ps(panel + 4 * kPanelRows), byte(at + kPanelRows))};
  }
  if constexpr (kFormat == WeightFormat::int4_f16) return {half(at), half(at + 2 * kPanelRows)};
  return {half(at), _mm512_setzero_ps()};
}

/// The integers of a group as unsigned bytes: vector j holds k = 4j … 4j + 3 of 16 rows.
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

/// `part` of the sums of a group, in units of x, to what 16 outputs of a row have of the groups before; `i`
/// is the group's number in x.
template <WeightFormat kFormat>
inline __m512 add_group(__m512 before, __m512 part, const Scales& s, const Activations& x, std::int64_t i) {
  const __m512 scaled = _mm512_fmadd_ps(_mm512_mul_ps(part, _mm512_set1_ps(x.scale[i])), s.scale, before);
  if constexpr (kFormat == WeightFormat::int8) return scaled;
  return _mm512_fmadd_ps(_mm512_set1_ps(x.sum[i]), s.offset, scaled);
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
        mask(amx::first16(p.w.rows - panel * kPanelRows)),
        accumulate(p.accumulate) {}
  void put(std::int64_t row, __m512 value) const {
    float* const to = y + row * stride;
    if (accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
    _mm512_mask_storeu_ps(to, mask, value);
  }
};

}  // namespace stem::cpu

STEM_TARGET_END

#endif
