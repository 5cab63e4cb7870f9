#include "convert/row_sums.h"

#include <algorithm>

#include "ops/glu.h"
#include "ops/linear.h"
#include "tables/token_groups.h"

namespace stem {

RowSums::RowSums(std::vector<std::int32_t> tokens, std::int64_t width)
    : tokens_(std::move(tokens)),
      products_(DType::f32, static_cast<std::int64_t>(tokens_.size()), width),
      squares_(DType::f32, static_cast<std::int64_t>(tokens_.size()), width) {}

void RowSums::add(const Context& ctx, std::span<const std::int32_t> tokens, In gate, In z) {
  const Workspace::Scope scope(*ctx.workspace);
  const TokenGroups groups(tokens, tokens_);
  // The gradient of a STEM layer's rows is Σ d_h ⊙ s: for d_h = z and for d_h = s the two sums.
  std::vector<RowPointer> none(tokens.size());
  const RowPointers rows{none.data(), gate.rows, gate.cols};
  const Out unused = ctx.workspace->matrix(gate.dtype, gate.rows, gate.cols);
  const Out s = ctx.workspace->matrix(gate.dtype, gate.rows, gate.cols);
  const Tensor one(DType::f32, 1, gate.cols);
  std::fill_n(one.view.row<float>(0), gate.cols, 1.0f);
  std::vector<RowPointer> ones(tokens.size(), RowPointer{one.view.data, 1.0f, DType::f32});
  stem_forward(ctx, s, gate, {ones.data(), gate.rows, gate.cols});
  stem_backward(ctx, unused, groups.gradients(products_, 0, gate.cols), z, gate, rows);
  stem_backward(ctx, unused, groups.gradients(squares_, 0, gate.cols), s, gate, rows);
  positions_ += gate.rows;
}

void RowSums::rows(Out u, In prior, double weight) const {
  const std::int64_t count = squares_.view.rows, width = squares_.view.cols;
  require(u.rows == count && u.cols == width && same_shape(prior, u), "RowSums::rows: shapes");
  std::vector<double> typical(static_cast<std::size_t>(width));  // weight · mean s²
  for (std::int64_t r = 0; r < count; ++r) {
    const float* const row = squares_.view.row<float>(r);
    for (std::size_t f = 0; f < typical.size(); ++f) typical[f] += static_cast<double>(row[f]);
  }
  const double scale = positions_ > 0 ? weight / static_cast<double>(positions_) : 0.0;
  for (double& t : typical) t *= scale;
  for (std::int64_t r = 0; r < count; ++r) {
    const float *const products = products_.view.row<float>(r), *const squares = squares_.view.row<float>(r);
    const float* const from = prior.row<float>(r);
    float* const to = u.row<float>(r);
    for (std::size_t f = 0; f < typical.size(); ++f) {
      const double sum = static_cast<double>(squares[f]) + typical[f];
      const double value = static_cast<double>(products[f]) + typical[f] * static_cast<double>(from[f]);
      to[f] = sum > 0.0 ? static_cast<float>(value / sum) : from[f];
    }
  }
}

}  // namespace stem
