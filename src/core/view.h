// Views: what every op takes and returns. A view is a row-major matrix with a dtype and a row stride; it owns
// nothing. A vector is a matrix of one row.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/error.h"

namespace stem {

/// A read-only matrix [rows, cols]; `stride` is the distance between rows in elements (>= cols).
struct In {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  explicit operator bool() const { return data != nullptr; }
  std::int64_t size() const { return rows * cols; }

  /// Pointer to row i; T must be the view's element type.
  template <class T>
  const T* row(std::int64_t i) const {
    require(dtype == dtype_of<T>(), "view read as another dtype");
    return static_cast<const T*>(data) + i * stride;
  }
  /// Rows [first, first + count).
  In slice_rows(std::int64_t first, std::int64_t count) const {
    return {static_cast<const char*>(data) + first * stride * size_of(dtype), dtype, count, cols, stride};
  }
  /// Columns [first, first + count); same stride.
  In slice_cols(std::int64_t first, std::int64_t count) const {
    return {static_cast<const char*>(data) + first * size_of(dtype), dtype, rows, count, stride};
  }
};

/// A writable matrix; converts to In.
struct Out {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  explicit operator bool() const { return data != nullptr; }
  operator In() const { return {data, dtype, rows, cols, stride}; }
  std::int64_t size() const { return rows * cols; }

  template <class T>
  T* row(std::int64_t i) const {
    require(dtype == dtype_of<T>(), "view written as another dtype");
    return static_cast<T*>(data) + i * stride;
  }
  Out slice_rows(std::int64_t first, std::int64_t count) const {
    return {static_cast<char*>(data) + first * stride * size_of(dtype), dtype, count, cols, stride};
  }
  Out slice_cols(std::int64_t first, std::int64_t count) const {
    return {static_cast<char*>(data) + first * size_of(dtype), dtype, rows, count, stride};
  }
};

/// View of contiguous memory.
template <class T>
Out matrix(T* data, std::int64_t rows, std::int64_t cols) {
  return {data, dtype_of<T>(), rows, cols, cols};
}
template <class T>
In matrix(const T* data, std::int64_t rows, std::int64_t cols) {
  return {data, dtype_of<T>(), rows, cols, cols};
}

inline bool same_shape(const In& a, const In& b) {
  return a.rows == b.rows && a.cols == b.cols;
}

}  // namespace stem
