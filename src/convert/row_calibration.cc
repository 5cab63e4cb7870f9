#include "convert/row_calibration.h"

#include <cmath>

#include "convert/least_squares.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "tables/token_groups.h"

namespace stem {
namespace {

constexpr double kRidge = 1e-3;  // of the mean of the equations' diagonal

}  // namespace

TokenFeatures::TokenFeatures(const Context& ctx, const Model& model, const CalibrationText& text)
    : embedding_(model.embed_tokens()),
      of_text_(DType::f32, static_cast<std::int64_t>(text.distinct().size()), width()),
      equations_(DType::f32, width(), width()) {
  of(text.distinct(), of_text_);
  const Workspace::Scope scope(*ctx.workspace);
  const Out counted = ctx.workspace->matrix(DType::f32, of_text_.view.rows, width());
  for (std::int64_t r = 0; r < counted.rows; ++r) {
    const auto count = static_cast<float>(text.counts()[static_cast<std::size_t>(r)]);
    for (std::int64_t i = 0; i < counted.cols; ++i)
      counted.row<float>(r)[i] = count * of_text_.view.row<float>(r)[i];
  }
  add_outer_products(ctx, equations_, counted, of_text_);
}

void TokenFeatures::of(std::span<const std::int32_t> tokens, Out features) const {
  const std::int64_t count = features.rows, width = embedding_.cols;
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    const float* const e = embedding_.row<float>(tokens[static_cast<std::size_t>(i)]);
    float* const to = features.row<float>(i);
    double squares = 0;
    for (std::int64_t d = 0; d < width; ++d) squares += static_cast<double>(e[d]) * static_cast<double>(e[d]);
    // An embedding of zeros (a row that pads the vocabulary) has no direction.
    const double scale = squares > 0 ? std::sqrt(static_cast<double>(width) / squares) : 0.0;
    for (std::int64_t d = 0; d < width; ++d) to[d] = static_cast<float>(scale * static_cast<double>(e[d]));
    to[width] = 1.0f;
  }
}

RowCalibration::RowCalibration(const CalibrationText& text, const TokenFeatures& features, std::int64_t width,
                               std::int64_t ffn)
    : text_(text),
      features_(features),
      sums_({text.distinct().begin(), text.distinct().end()}, ffn),
      normed_(DType::f32, static_cast<std::int64_t>(text.distinct().size()), width) {}

void RowCalibration::add(const Context& ctx, std::span<const std::int32_t> tokens, In normed, In gate, In z) {
  const Workspace::Scope scope(*ctx.workspace);
  sums_.add(ctx, tokens, gate, z);
  const TokenGroups groups(tokens, text_.distinct());
  embedding_backward(ctx, groups.gradients(normed_, 0, normed.cols), as_type(ctx, normed, DType::f32));
}

void RowCalibration::fit(const Context& ctx, In w_up, double prior) {
  const std::int64_t width = normed_.view.cols;
  const Tensor to_normed(DType::f32, features_.width(), width);
  add_outer_products(ctx, to_normed, features_.of_text(), normed_);
  solve_ridge(to_normed, features_.equations(), to_normed, kRidge);
  map_ = Tensor(DType::f32, w_up.rows, features_.width());
  linear_forward(ctx, map_, w_up, Weight{to_normed.view});
  prior_weight_ = sums_.typical_weight(prior);
}

void RowCalibration::rows(const Context& ctx, std::span<const std::int32_t> tokens, Out u) const {
  const Workspace::Scope scope(*ctx.workspace);
  const Out features = ctx.workspace->matrix(DType::f32, u.rows, features_.width());
  features_.of(tokens, features);
  linear_forward(ctx, u, features, Weight{map_.view});
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < u.rows; ++i) {
    const std::int64_t r = text_.place(tokens[static_cast<std::size_t>(i)]);
    const std::span<float> row(u.row<float>(i), static_cast<std::size_t>(u.cols));
    if (r >= 0) sums_.solve(r, row, prior_weight_);
    for (float& value : row) value = static_cast<float>(bf16(value));
  }
}

}  // namespace stem
