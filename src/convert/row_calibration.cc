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

NormedMeans::NormedMeans(const CalibrationText& text, const TokenFeatures& features, std::int64_t width)
    : text_(text), features_(features), sums_(DType::f32, std::ssize(text.distinct()), width) {}

void NormedMeans::add(const Context& ctx, std::span<const std::int32_t> tokens, In normed) {
  const Workspace::Scope scope(*ctx.workspace);
  const TokenGroups groups(tokens, text_.distinct());
  embedding_backward(ctx, groups.gradients(sums_, 0, normed.cols), as_type(ctx, normed, DType::f32));
}

void NormedMeans::fit(const Context& ctx) {
  map_ = Tensor(DType::f32, features_.width(), sums_.view.cols);
  add_outer_products(ctx, map_, features_.of_text(), sums_);
  solve_ridge(map_, features_.equations(), map_, kRidge);
}

void NormedMeans::means(const Context& ctx, std::span<const std::int32_t> tokens, double prior,
                        Out means) const {
  const Workspace::Scope scope(*ctx.workspace);
  const Out features = ctx.workspace->matrix(DType::f32, means.rows, features_.width());
  features_.of(tokens, features);
  const Tensor columns(DType::f32, map_.view.cols, map_.view.rows);
  for (std::int64_t i = 0; i < map_.view.rows; ++i) {
    for (std::int64_t d = 0; d < map_.view.cols; ++d)
      columns.view.row<float>(d)[i] = map_.view.row<float>(i)[d];
  }
  linear_forward(ctx, means, features, Weight{columns.view});
  for (std::int64_t i = 0; i < means.rows; ++i) {
    const std::int64_t r = text_.place(tokens[static_cast<std::size_t>(i)]);
    if (r < 0) continue;
    const double weight = prior + static_cast<double>(text_.counts()[static_cast<std::size_t>(r)]);
    const float* const sum = sums_.view.row<float>(r);
    float* const mean = means.row<float>(i);
    for (std::int64_t d = 0; d < means.cols; ++d)
      mean[d] =
          static_cast<float>((prior * static_cast<double>(mean[d]) + static_cast<double>(sum[d])) / weight);
  }
}

RowCalibration::RowCalibration(const CalibrationText& text, const TokenFeatures& features, std::int64_t width,
                               std::int64_t ffn)
    : text_(text),
      features_(features),
      sums_({text.distinct().begin(), text.distinct().end()}, ffn),
      normed_(text, features, width) {}

void RowCalibration::add(const Context& ctx, std::span<const std::int32_t> tokens, In normed, In gate, In z) {
  sums_.add(ctx, tokens, gate, z);
  normed_.add(ctx, tokens, normed);
}

void RowCalibration::fit(const Context& ctx, In w_up, double prior) {
  normed_.fit(ctx);
  map_ = Tensor(DType::f32, w_up.rows, features_.width());
  linear_forward(ctx, map_, w_up, Weight{normed_.map()});
  prior_weight_ = sums_.typical_weight(prior);
  no_weight_.assign(prior_weight_.size(), 0.0f);
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
    // A sequence's first token is always in the same state: its row needs no guess, and some coordinates of
    // it are like no other token's.
    const bool first = r >= 0 && text_.begins_sequences(tokens[static_cast<std::size_t>(i)]);
    if (r >= 0) sums_.solve(r, row, first ? std::span<const float>(no_weight_) : prior_weight_);
    for (float& value : row) value = static_cast<float>(bf16(value));
  }
}

}  // namespace stem
