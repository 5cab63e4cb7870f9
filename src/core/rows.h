// Row pointers: how kernels read a STEM table. One pointer per position, never a gathered [N, F] block; that
// is also how overlays replace rows.
#pragma once

#include <cstdint>
#include <optional>

#include "core/dtype.h"
#include "core/weight_format.h"

namespace stem {

/// Where one position's row lies. `data == nullptr` is a row of zeros.
struct RowPointer {
  const void* data = nullptr;               ///< [cols] values, contiguous
  float scale = 1.0f;                       ///< multiplies every value
  DType dtype = DType::f32;                 ///< f32, bf16 or f64
  std::optional<WeightFormat> stored = {};  ///< in place of plain values: a stored row (core/weight_format.h)
};

/// The rows that N positions read in one STEM layer.
struct RowPointers {
  const RowPointer* at = nullptr;  ///< [rows]
  std::int64_t rows = 0;           ///< N, positions
  std::int64_t cols = 0;           ///< F, width of a row
};

/// The row-sparse gradient of one STEM layer: one dense f32 (f64 in the oracle) row per *distinct* token of
/// the batch. Positions of distinct token r are positions[offsets[r] .. offsets[r+1]), in ascending order, so
/// the sum over them has one fixed order (stem-spec §2). Kernels accumulate into grads.
struct RowGradients {
  std::int64_t distinct = 0;                ///< R
  std::int64_t cols = 0;                    ///< F
  const std::int32_t* offsets = nullptr;    ///< [R + 1]
  const std::int32_t* positions = nullptr;  ///< [N]
  void* grads = nullptr;                    ///< row r at grads + r * stride elements
  DType dtype = DType::f32;                 ///< f32 or f64
  std::int64_t stride = 0;                  ///< elements between rows of distinct tokens
};

}  // namespace stem
