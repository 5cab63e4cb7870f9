#include "convert/row_sums.h"

#include <algorithm>

#include "ops/glu.h"
#include "ops/linear.h"
#include "tables/token_groups.h"

namespace stem {

RowSums::RowSums(std::vector<std::int32_t> tokens, std::int64_t width)
    : tokens_(std::move(tokens)),
      products_(DType::f32, static_cast<std::int64_t>(tokens_.size()), width),
      squares_(DType::f32, static_cast<std::int64_t>(tokens_.size()), width),
      one_(DType::f32, 1, width) {
  std::fill_n(one_.view.row<float>(0), width, 1.0f);
}

void RowSums::add(const Context& ctx, std::span<const std::int32_t> tokens, In gate, In z) {
  const Workspace::Scope scope(*ctx.workspace);
  const TokenGroups groups(tokens, tokens_);
  const Out s = ctx.workspace->matrix(gate.dtype, gate.rows, gate.cols);
  const std::vector<RowPointer> ones(tokens.size(), RowPointer{one_.view.data, 1.0f, DType::f32});
  const RowPointers rows{ones.data(), gate.rows, gate.cols};
  stem_forward(ctx, s, gate, rows);
  // The gradient of a STEM layer's rows is Σ d_h ⊙ s: for d_h = z and for d_h = s the two sums.
  const Out unused = ctx.workspace->matrix(gate.dtype, gate.rows, gate.cols);
  stem_backward(ctx, unused, groups.gradients(products_, 0, gate.cols), z, gate, rows);
  stem_backward(ctx, unused, groups.gradients(squares_, 0, gate.cols), s, gate, rows);
  positions_ += gate.rows;
}

std::vector<float> RowSums::typical_weight(double occurrences) const {
  const In squares = squares_;
  std::vector<double> sums(static_cast<std::size_t>(squares.cols));
  for (std::int64_t r = 0; r < squares.rows; ++r) {
    const float* const row = squares.row<float>(r);
    for (std::size_t f = 0; f < sums.size(); ++f) sums[f] += static_cast<double>(row[f]);
  }
  const double scale = positions_ > 0 ? occurrences / static_cast<double>(positions_) : 0.0;
  std::vector<float> weight;
  for (const double sum : sums) weight.push_back(static_cast<float>(scale * sum));
  return weight;
}

void RowSums::solve(std::int64_t r, std::span<float> u, std::span<const float> prior_weight) const {
  const float *const products = products_.view.row<float>(r), *const squares = squares_.view.row<float>(r);
  for (std::size_t f = 0; f < u.size(); ++f) {
    const float weight = squares[f] + prior_weight[f];
    if (weight > 0.0f) u[f] = (products[f] + prior_weight[f] * u[f]) / weight;
  }
}

}  // namespace stem
