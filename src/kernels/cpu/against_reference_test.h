// For the tests of this room: random strided matrices in two dtypes, and comparison with the oracle in f64.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "core/rng.h"
#include "core/workspace.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

namespace stem::testing {

inline double value_at(In m, std::int64_t r, std::int64_t c) {
  switch (m.dtype) {
    case DType::f32:
      return static_cast<double>(m.row<float>(r)[c]);
    case DType::bf16:
      return static_cast<double>(static_cast<float>(m.row<bf16>(r)[c]));
    default:
      return m.row<double>(r)[c];
  }
}

inline void set_at(Out m, std::int64_t r, std::int64_t c, double value) {
  switch (m.dtype) {
    case DType::f32:
      m.row<float>(r)[c] = static_cast<float>(value);
      break;
    case DType::bf16:
      m.row<bf16>(r)[c] = bf16(static_cast<float>(value));
      break;
    default:
      m.row<double>(r)[c] = value;
  }
}

/// A matrix whose rows lie `gap` elements apart; the gaps hold a mark that kernels must leave alone.
class Matrix {
 public:
  static constexpr double kMark = 1024.0;  // exact in bf16

  Matrix(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0)
      : whole_(dtype, rows, cols + gap), view(whole_.view.slice_cols(0, cols)) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = cols; c < cols + gap; ++c) set_at(whole_, r, c, kMark);
    }
  }
  /// Uniform in [-scale, scale), the same for the same seed.
  Matrix& randomise(std::uint64_t seed, double scale = 1.0) & {
    Rng rng(seed, 7);
    for (std::int64_t r = 0; r < view.rows; ++r) {
      for (std::int64_t c = 0; c < view.cols; ++c) set_at(view, r, c, scale * (2.0 * rng.uniform() - 1.0));
    }
    return *this;
  }
  Matrix&& randomise(std::uint64_t seed, double scale = 1.0) && { return std::move(randomise(seed, scale)); }
  /// The same values in f64, contiguous: what the oracle writes to.
  Matrix wide() const {
    Matrix copy(DType::f64, view.rows, view.cols);
    for (std::int64_t r = 0; r < view.rows; ++r) {
      for (std::int64_t c = 0; c < view.cols; ++c) set_at(copy.view, r, c, value_at(view, r, c));
    }
    return copy;
  }
  void expect_gaps_untouched() const {
    for (std::int64_t r = 0; r < view.rows; ++r) {
      for (std::int64_t c = view.cols; c < whole_.view.cols; ++c) {
        ASSERT_EQ(value_at(whole_, r, c), kMark) << "written behind the end of row " << r;
      }
    }
  }
  operator Out() const { return view; }
  operator In() const { return view; }

 private:
  Tensor whole_;

 public:
  Out view;
};

/// |got − want| <= tolerance · (1 + |want|) everywhere; bf16 results also get their rounding.
inline void expect_close(const Matrix& got, const Matrix& want, double tolerance, const char* what) {
  ASSERT_TRUE(same_shape(got, want)) << what;
  const double rounding = got.view.dtype == DType::bf16 ? 1.0 / 256 : 0.0;
  for (std::int64_t r = 0; r < got.view.rows; ++r) {
    for (std::int64_t c = 0; c < got.view.cols; ++c) {
      const double a = value_at(got, r, c), b = value_at(want, r, c);
      ASSERT_LE(std::abs(a - b), tolerance * (1.0 + std::abs(b)) + rounding * std::abs(b))
          << what << " [" << r << ", " << c << "] is " << a << ", expected " << b;
    }
  }
  got.expect_gaps_untouched();
}

/// Whether two matrices hold the same bits.
inline bool same_bits(In a, In b) {
  if (!same_shape(a, b) || a.dtype != b.dtype) return false;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const In x = a.slice_rows(r, 1), y = b.slice_rows(r, 1);
    if (std::memcmp(x.data, y.data, static_cast<std::size_t>(a.cols * size_of(a.dtype))) != 0) return false;
  }
  return true;
}

/// Restores the number of threads when the test ends.
class Threads {
 public:
  explicit Threads(int count) : before_(cpu_threads()) { set_cpu_threads(count); }
  ~Threads() { set_cpu_threads(before_); }

 private:
  int before_;
};

}  // namespace stem::testing
