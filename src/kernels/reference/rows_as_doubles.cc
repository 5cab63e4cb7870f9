#include "kernels/reference/rows_as_doubles.h"

namespace stem::reference {
namespace {

/// Calls f with a null pointer of the dtype's C++ type, so that a generic lambda is compiled once per type.
template <class F>
void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f64:
      return f(static_cast<double*>(nullptr));
    case DType::f32:
      return f(static_cast<float*>(nullptr));
    case DType::bf16:
      return f(static_cast<bf16*>(nullptr));
    default:
      require(false, "reference kernels take f64, f32 and bf16");
  }
}

double widen(double x) {
  return x;
}
double widen(float x) {
  return static_cast<double>(x);
}
double widen(bf16 x) {
  return static_cast<double>(static_cast<float>(x));
}

void round_to(double& to, double x) {
  to = x;
}
void round_to(float& to, double x) {
  to = static_cast<float>(x);
}
void round_to(bf16& to, double x) {
  to = bf16(static_cast<float>(x));
}

const void* row_data(const In& m, std::int64_t i) {
  return static_cast<const char*>(m.data) + i * m.stride * size_of(m.dtype);
}

void* row_data(const Out& m, std::int64_t i) {
  return static_cast<char*>(m.data) + i * m.stride * size_of(m.dtype);
}

}  // namespace

void load(double* values, const void* data, DType dtype, std::int64_t count) {
  with_type(dtype, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(data);
    for (std::int64_t i = 0; i < count; ++i) values[i] = widen(from[i]);
  });
}

void store(void* data, DType dtype, const double* values, std::int64_t count) {
  with_type(dtype, [&]<class T>(T*) {
    T* to = static_cast<T*>(data);
    for (std::int64_t i = 0; i < count; ++i) round_to(to[i], values[i]);
  });
}

Row load_row(const In& m, std::int64_t i) {
  Row values(static_cast<std::size_t>(m.cols));
  load(values.data(), row_data(m, i), m.dtype, m.cols);
  return values;
}

void store_row(const Out& m, std::int64_t i, const Row& values) {
  store(row_data(m, i), m.dtype, values.data(), m.cols);
}

void add_row(const Out& m, std::int64_t i, const Row& values) {
  Row sum = load_row(m, i);
  for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += values[j];
  store_row(m, i, sum);
}

Row load_row(const RowPointers& rows, std::int64_t n) {
  Row values(static_cast<std::size_t>(rows.cols), 0.0);
  const RowPointer& row = rows.at[n];
  if (row.data == nullptr) return values;
  if (row.stored) {
    std::vector<float> read(values.size());
    read_row(*row.stored, static_cast<const std::byte*>(row.data), read);
    values.assign(read.begin(), read.end());
  } else {
    load(values.data(), row.data, row.dtype, rows.cols);
  }
  for (double& u : values) u *= static_cast<double>(row.scale);
  return values;
}

Out as_view(const RowGradients& g) {
  return {g.grads, g.dtype, g.distinct, g.cols, g.stride};
}

Matrix load_matrix(const In& m) {
  Matrix values(m.rows, m.cols);
  for (std::int64_t i = 0; i < m.rows; ++i) load(values[i], row_data(m, i), m.dtype, m.cols);
  return values;
}

Matrix load_transposed(const In& m) {
  Matrix values(m.cols, m.rows);
  for (std::int64_t i = 0; i < m.rows; ++i) {
    const Row row = load_row(m, i);
    for (std::int64_t j = 0; j < m.cols; ++j) values[j][i] = row[static_cast<std::size_t>(j)];
  }
  return values;
}

void store_matrix(const Out& m, const Matrix& values) {
  for (std::int64_t i = 0; i < m.rows; ++i) store(row_data(m, i), m.dtype, values[i], m.cols);
}

}  // namespace stem::reference
