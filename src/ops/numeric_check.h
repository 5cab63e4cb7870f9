// What the tests of ops share: random operands, comparisons, and gradients by central differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <vector>

#include "core/rng.h"
#include "core/rows.h"
#include "core/workspace.h"

namespace stem {

inline double get(const In& m, std::int64_t i, std::int64_t j) {
  switch (m.dtype) {
    case DType::f64:
      return m.row<double>(i)[j];
    case DType::f32:
      return static_cast<double>(m.row<float>(i)[j]);
    default:
      return static_cast<double>(static_cast<float>(m.row<bf16>(i)[j]));
  }
}

inline void set(const Out& m, std::int64_t i, std::int64_t j, double value) {
  switch (m.dtype) {
    case DType::f64:
      m.row<double>(i)[j] = value;
      break;
    case DType::f32:
      m.row<float>(i)[j] = static_cast<float>(value);
      break;
    default:
      m.row<bf16>(i)[j] = bf16(static_cast<float>(value));
      break;
  }
}

/// Normal values with standard deviation `scale`, rounded to the view's dtype.
inline void fill_random(const Out& m, Rng& rng, double scale = 1.0) {
  for (std::int64_t i = 0; i < m.rows; ++i) {
    for (std::int64_t j = 0; j < m.cols; ++j) set(m, i, j, scale * rng.normal());
  }
}

inline Tensor random_tensor(DType dtype, std::int64_t rows, std::int64_t cols, Rng& rng, double scale = 1.0) {
  Tensor t(dtype, rows, cols);
  fill_random(t.view, rng, scale);
  return t;
}

/// A contiguous copy, for "what was there before".
inline Tensor copy_of(const In& m) {
  Tensor t(m.dtype, m.rows, m.cols);
  for (std::int64_t i = 0; i < m.rows; ++i) {
    for (std::int64_t j = 0; j < m.cols; ++j) set(t.view, i, j, get(m, i, j));
  }
  return t;
}

inline double max_abs(const In& m) {
  double top = 0.0;
  for (std::int64_t i = 0; i < m.rows; ++i) {
    for (std::int64_t j = 0; j < m.cols; ++j) {
      const double x = std::abs(get(m, i, j));
      top = std::isnan(x) ? std::numeric_limits<double>::infinity() : std::max(top, x);
    }
  }
  return top;
}

/// max |a − b| / max |b|; infinite when a value is NaN or the shapes differ.
inline double relative_error(const In& a, const In& b) {
  if (!same_shape(a, b)) return std::numeric_limits<double>::infinity();
  double top = 0.0;
  for (std::int64_t i = 0; i < a.rows; ++i) {
    for (std::int64_t j = 0; j < a.cols; ++j) {
      const double x = std::abs(get(a, i, j) - get(b, i, j));
      top = std::isnan(x) ? std::numeric_limits<double>::infinity() : std::max(top, x);
    }
  }
  return top == 0.0 ? 0.0 : top / max_abs(b);
}

inline bool same_bits(const In& a, const In& b) {
  if (!same_shape(a, b) || a.dtype != b.dtype) return false;
  for (std::int64_t i = 0; i < a.rows; ++i) {
    const In x = a.slice_rows(i, 1), y = b.slice_rows(i, 1);
    if (std::memcmp(x.data, y.data, static_cast<std::size_t>(a.cols * size_of(a.dtype))) != 0) return false;
  }
  return true;
}

/// Σ a ⊙ b: with b fixed and random, a scalar whose gradient with respect to a is b.
inline double inner(const In& a, const In& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.rows; ++i) {
    for (std::int64_t j = 0; j < a.cols; ++j) sum += get(a, i, j) * get(b, i, j);
  }
  return sum;
}

/// Largest difference between `analytic` and the central differences of `objective` with respect to each
/// element of x (f64), relative to the largest gradient.
inline double gradient_error(const std::function<double()>& objective, const Out& x, const In& analytic) {
  constexpr double kStep = 1e-5;
  Tensor numeric(DType::f64, x.rows, x.cols);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t j = 0; j < x.cols; ++j) {
      const double kept = get(x, i, j);
      set(x, i, j, kept + kStep);
      const double above = objective();
      set(x, i, j, kept - kStep);
      const double below = objective();
      set(x, i, j, kept);
      set(numeric.view, i, j, (above - below) / (2.0 * kStep));
    }
  }
  if (max_abs(numeric) == 0.0) return std::numeric_limits<double>::infinity();  // the objective never reads x
  return relative_error(analytic, numeric);
}

/// A batch of tokens that reads rows of a table [V, F]: pointers, groups of equal tokens, gradient rows.
/// One token may have no row (null), and rows may carry a scale.
struct TokenRows {
  std::vector<std::int32_t> tokens;
  Tensor table;
  std::vector<RowPointer> pointers;
  std::vector<std::int32_t> distinct, offsets, positions;
  Tensor grads;  ///< [R, F] wide

  TokenRows(std::vector<std::int32_t> ids, std::int64_t vocab, std::int64_t cols, DType table_dtype,
            DType grad_dtype, Rng& rng, std::int32_t null_token = -1, float scale = 1.0f)
      : tokens(std::move(ids)), table(random_tensor(table_dtype, vocab, cols, rng)) {
    std::map<std::int32_t, std::vector<std::int32_t>> groups;
    for (std::size_t n = 0; n < tokens.size(); ++n) {
      const std::int32_t t = tokens[n];
      groups[t].push_back(static_cast<std::int32_t>(n));
      const void* row = t == null_token ? nullptr : table.view.slice_rows(t, 1).data;
      pointers.push_back({row, scale, table_dtype});
    }
    offsets.push_back(0);
    for (const auto& [token, where] : groups) {
      distinct.push_back(token);
      positions.insert(positions.end(), where.begin(), where.end());
      offsets.push_back(static_cast<std::int32_t>(positions.size()));
    }
    grads = Tensor(grad_dtype, static_cast<std::int64_t>(distinct.size()), cols);
  }

  RowPointers rows() const {
    return {pointers.data(), static_cast<std::int64_t>(pointers.size()), table.view.cols};
  }
  RowGradients gradients() const {
    return {grads.view.rows, grads.view.cols,  offsets.data(),   positions.data(),
            grads.view.data, grads.view.dtype, grads.view.stride};
  }
};

}  // namespace stem
