// Products with weights as they are stored for inference: every value taken apart and multiplied in doubles.
#include <cstring>

#include "kernels/reference/families.h"
#include "kernels/reference/rows_as_doubles.h"

namespace stem::reference {
namespace {

std::size_t bytes(WeightFormat format, std::int64_t rows, std::int64_t cols) {
  return static_cast<std::size_t>(rows * stored_row_bytes(format, cols));
}

void pack(void* to, const StoredMatrix& from) {
  if (from.rows > 0) std::memcpy(to, from.data, bytes(from.format, from.rows, from.cols));
}

StoredMatrix stored(const ServedMatrix& w) {
  return {w.format, w.rows, w.cols, static_cast<const std::byte*>(w.data)};
}

Row weight_row(const ServedMatrix& w, std::int64_t r) {
  std::vector<float> values(static_cast<std::size_t>(w.cols));
  read_row(w.format, stored(w).row(r), values);
  return {values.begin(), values.end()};
}

// What the product reads of x: bf16 as it is, integers as int8 in groups.
Row seen(const Row& x, WeightFormat format) {
  if (format == WeightFormat::bf16) return x;
  const std::vector<float> values(x.begin(), x.end());
  const auto groups = static_cast<std::size_t>(weight_groups(static_cast<std::int64_t>(x.size())));
  std::vector<std::int8_t> q(groups * kWeightGroup);
  std::vector<float> scale(groups);
  quantise_activations(values, q.data(), scale.data());
  Row rounded(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    rounded[i] = static_cast<double>(scale[i / kWeightGroup]) * static_cast<double>(q[i]);
  return rounded;
}

void linear(Out y, In x, const ServedMatrix& w, bool accumulate) {
  std::vector<Row> in;
  for (std::int64_t m = 0; m < x.rows; ++m) in.push_back(seen(load_row(x, m), w.format));
  Matrix sums(y.rows, y.cols);
  for (std::int64_t n = 0; n < w.rows; ++n) {
    const Row weights = weight_row(w, n);
    for (std::int64_t m = 0; m < x.rows; ++m) {
      for (std::size_t i = 0; i < weights.size(); ++i)
        sums[m][n] += in[static_cast<std::size_t>(m)][i] * weights[i];
    }
  }
  for (std::int64_t m = 0; m < x.rows; ++m) {
    const Row row(sums[m], sums[m] + y.cols);
    accumulate ? add_row(y, m, row) : store_row(y, m, row);
  }
}

void gather(Out x, const ServedMatrix& w, std::span<const std::int32_t> ids) {
  for (std::size_t n = 0; n < ids.size(); ++n)
    store_row(x, static_cast<std::int64_t>(n), weight_row(w, ids[n]));
}

}  // namespace

ServedKernels served_kernels() {
  return {.bytes = bytes, .pack = pack, .linear = linear, .gather = gather};
}

}  // namespace stem::reference
