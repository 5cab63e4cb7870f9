// How the oracle reads and writes: a row of any floating view becomes doubles, is computed on, and is rounded
// once when it is stored. The dtype is looked at once per row, so the loops over elements stay plain.
#pragma once

#include <cstdint>
#include <vector>

#include "core/rows.h"
#include "core/view.h"

namespace stem::reference {

using Row = std::vector<double>;

/// A dense matrix of doubles; m[i] points at row i.
class Matrix {
 public:
  Matrix(std::int64_t rows, std::int64_t cols)
      : rows_(rows), cols_(cols), values_(static_cast<std::size_t>(rows * cols)) {}

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  double* operator[](std::int64_t i) { return values_.data() + i * cols_; }
  const double* operator[](std::int64_t i) const { return values_.data() + i * cols_; }

 private:
  std::int64_t rows_, cols_;
  std::vector<double> values_;
};

/// values[0 .. count) = the elements at `data`, exactly.
void load(double* values, const void* data, DType dtype, std::int64_t count);
/// The elements at `data` = values rounded to nearest even (f64 → f32 → bf16).
void store(void* data, DType dtype, const double* values, std::int64_t count);

Row load_row(const In& m, std::int64_t i);
void store_row(const Out& m, std::int64_t i, const Row& values);
/// Row i of m += values, rounded once.
void add_row(const Out& m, std::int64_t i, const Row& values);

/// Row times its scale; null reads as zeros.
Row load_row(const RowPointers& rows, std::int64_t n);
/// Gradient rows of the distinct tokens as a view [R, F].
Out as_view(const RowGradients& g);

Matrix load_matrix(const In& m);
Matrix load_transposed(const In& m);
void store_matrix(const Out& m, const Matrix& values);

}  // namespace stem::reference
