// Per-target reading of a table's rows through row pointers. See simd-inl.h for the toggling guard.
#if defined(STEM_KERNELS_CPU_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef STEM_KERNELS_CPU_ROWS_INL_H_
#undef STEM_KERNELS_CPU_ROWS_INL_H_
#else
#define STEM_KERNELS_CPU_ROWS_INL_H_
#endif

#include <algorithm>

#include "core/rows.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {

/// Columns of a row that are expanded at a time, whole groups of stored rows; the buffer stays in L1 and on
/// the stack.
constexpr std::int64_t kRowChunk = 512;

template <class T>
HWY_INLINE void scale_into(float* out, const T* in, float scale, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto part)
                         HWY_ATTR { store(hn::Mul(load(in + i, part), set(scale)), out + i, part); });
}

/// Values [first, first + count) of a row as f32: the row itself where it is plain f32, else expanded into
/// `buffer`.
HWY_INLINE const float* row_values(const RowPointer& row, std::int64_t first, std::int64_t count,
                                   float* buffer) {
  if (row.data == nullptr) {
    std::fill_n(buffer, count, 0.0f);
    return buffer;
  }
  if (row.stored) {
    read_row(*row.stored, static_cast<const std::byte*>(row.data), first,
             {buffer, static_cast<std::size_t>(count)});
    if (row.scale != 1.0f) scale_into(buffer, buffer, row.scale, count);
    return buffer;
  }
  if (row.dtype == DType::f32) {
    const float* const values = static_cast<const float*>(row.data) + first;
    if (row.scale == 1.0f) return values;
    scale_into(buffer, values, row.scale, count);
    return buffer;
  }
  require(row.dtype == DType::bf16, "the cpu backend reads rows in f32 or bf16");
  scale_into(buffer, static_cast<const bf16*>(row.data) + first, row.scale, count);
  return buffer;
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
