// What every op checks before a kernel runs. A failure is a bug of ours, never of a user: see core/error.h.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/rows.h"
#include "core/view.h"
#include "ops/context.h"

namespace stem {

inline bool is_wide(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f64;
}
inline bool is_narrow(DType dtype) {
  return is_wide(dtype) || dtype == DType::bf16;
}

/// m is a matrix [rows, cols] of a floating type that a kernel may touch.
inline void require_matrix(const In& m, std::int64_t rows, std::int64_t cols, std::string_view what) {
  require(m.rows == rows && m.cols == cols, what);
  require(m.data != nullptr || m.size() == 0, what);
  require(m.stride >= m.cols || m.rows <= 1, what);
  require(is_narrow(m.dtype), what);
}

/// As require_matrix, and of a wide type.
inline void require_wide(const In& m, std::int64_t rows, std::int64_t cols, std::string_view what) {
  require_matrix(m, rows, cols, what);
  require(is_wide(m.dtype), what);
}

inline void require_rows(const RowPointers& rows, std::int64_t count, std::int64_t cols,
                         std::string_view what) {
  require(rows.rows == count && rows.cols == cols, what);
  require(rows.at != nullptr || count == 0, what);
}

/// The groups of positions lie within `count` positions.
inline void require_groups(const RowGradients& g, std::int64_t count, std::string_view what) {
  if (g.distinct == 0) return;
  require(g.offsets != nullptr && g.positions != nullptr, what);
  require(g.offsets[0] >= 0 && g.offsets[g.distinct] <= count, what);
}

/// Gradient rows of width `cols` for groups of `count` positions.
inline void require_row_gradients(const RowGradients& g, std::int64_t count, std::int64_t cols,
                                  std::string_view what) {
  require(g.cols == cols, what);
  require(g.distinct == 0 || (g.grads != nullptr && g.stride >= cols), what);
  require(is_wide(g.dtype), what);
  require_groups(g, count, what);
}

inline const Kernels& kernels_of(const Context& ctx) {
  require(ctx.kernels != nullptr, "a context without kernels");
  return *ctx.kernels;
}

}  // namespace stem
