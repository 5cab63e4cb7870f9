#include "convert/weight_refit.h"

#include <cmath>

#include "convert/least_squares.h"
#include "ops/linear.h"

namespace stem {
namespace {

// Of the mean square of the targets at a position: below it, relative errors no longer count more.
constexpr double kSmallestTarget = 0.01;

float value_at(const In& m, std::int64_t n, std::int64_t i) {
  return m.dtype == DType::bf16 ? static_cast<float>(m.row<bf16>(n)[i]) : m.row<float>(n)[i];
}

double mean_square(const In& m, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < m.cols; ++i) {
    const auto value = static_cast<double>(value_at(m, n, i));
    sum += value * value;
  }
  return sum / static_cast<double>(m.cols);
}

// to[n] = weight[n] · from[n]
void scale_rows(Out to, In from, const float* weight) {
#pragma omp parallel for schedule(static)
  for (std::int64_t n = 0; n < from.rows; ++n) {
    for (std::int64_t i = 0; i < from.cols; ++i) {
      const float value = weight[n] * value_at(from, n, i);
      if (to.dtype == DType::bf16)
        to.row<bf16>(n)[i] = bf16(value);
      else
        to.row<float>(n)[i] = value;
    }
  }
}

}  // namespace

WeightRefit::WeightRefit(In target, std::int64_t inputs, std::int64_t sequence)
    : target_(target),
      weights_(static_cast<std::size_t>(target.rows)),
      squares_(DType::f32, inputs, inputs),
      products_(DType::f32, inputs, target.cols) {
  double mean = 0;
  for (std::int64_t n = 0; n < target.rows; ++n) {
    const double square = mean_square(target, n);
    weights_[static_cast<std::size_t>(n)] = static_cast<float>(square);
    if (n % sequence != 0) mean += square / static_cast<double>(target.rows);
  }
  for (float& w : weights_)
    w = static_cast<float>(1.0 / std::sqrt(static_cast<double>(w) + kSmallestTarget * mean + 1e-30));
}

void WeightRefit::add(const Context& ctx, std::int64_t first, In inputs) {
  const Workspace::Scope scope(*ctx.workspace);
  const Out z = ctx.workspace->matrix(inputs.dtype, inputs.rows, inputs.cols);
  const Out y = ctx.workspace->matrix(inputs.dtype, inputs.rows, target_.cols);
  const float* const weight = weights_.data() + first;
  scale_rows(z, inputs, weight);
  scale_rows(y, target_.slice_rows(first, inputs.rows), weight);
  add_outer_products(ctx, squares_, z, z);
  add_outer_products(ctx, products_, z, y);
}

// (G + λI) Wᵀ = Zᵀ Y + λ Wᵀ of before.
Tensor WeightRefit::solve(In before, double ridge) const {
  const std::int64_t inputs = squares_.view.rows, width = target_.cols;
  double diagonal = 0;
  for (std::int64_t k = 0; k < inputs; ++k) diagonal += static_cast<double>(squares_.view.row<float>(k)[k]);
  const auto pull = static_cast<float>(ridge * diagonal / static_cast<double>(inputs));
  for (std::int64_t k = 0; k < inputs; ++k) {
    for (std::int64_t d = 0; d < width; ++d)
      products_.view.row<float>(k)[d] += pull * before.row<float>(d)[k];
  }
  solve_ridge(products_, squares_, products_, ridge);
  Tensor weight(DType::f32, width, inputs);
  for (std::int64_t d = 0; d < width; ++d) {
    for (std::int64_t k = 0; k < inputs; ++k) weight.view.row<float>(d)[k] = products_.view.row<float>(k)[d];
  }
  return weight;
}

}  // namespace stem
