// What the timing programs share: random operands, token ids by Zipf's law, medians.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/rng.h"
#include "core/workspace.h"
#include "kernels/cpu/cpu.h"

namespace stem::bench {

/// [rows, cols] of f32 or bf16, uniform in [−1, 1).
inline Tensor random_tensor(DType dtype, std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Tensor wide(DType::f32, rows, cols);
  Rng rng(seed, 1);
  for (std::int64_t i = 0; i < rows * cols; ++i)
    wide.view.row<float>(0)[i] = static_cast<float>(2.0 * rng.uniform() - 1.0);
  if (dtype == DType::f32) return wide;
  Tensor narrow(dtype, rows, cols);
  cpu_kernels().optimizer.convert(narrow, wide);
  return narrow;
}

/// Ids in [0, vocab) with p(i) ∝ 1/(i + 1).
class ZipfIds {
 public:
  explicit ZipfIds(std::int64_t vocab) {
    double total = 0;
    for (std::int64_t i = 0; i < vocab; ++i) cumulative_.push_back(total += 1.0 / static_cast<double>(i + 1));
  }
  std::int32_t draw(Rng& rng) const {
    const double x = rng.uniform() * cumulative_.back();
    const auto id = std::lower_bound(cumulative_.begin(), cumulative_.end(), x) - cumulative_.begin();
    return static_cast<std::int32_t>(
        std::min<std::ptrdiff_t>(id, static_cast<std::ptrdiff_t>(cumulative_.size()) - 1));
  }

 private:
  std::vector<double> cumulative_;
};

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace stem::bench
