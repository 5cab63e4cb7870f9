#include "convert/conversion.h"

#include <cmath>
#include <cstring>

#include "convert/least_squares.h"
#include "convert/text_rows.h"
#include "ops/linear.h"

namespace stem {
namespace {

// Of the mean square of what FFNs add at a position: below it, relative errors no longer count more.
constexpr double kSmallestTarget = 0.01;

// to = (x − x_mid) + share · (x_mid − student's x_mid)
void set_target(Out to, In x, In x_mid, In student_mid, double share) {
  const auto part = static_cast<float>(share);
#pragma omp parallel for schedule(static)
  for (std::int64_t n = 0; n < x.rows; ++n) {
    const float *const a = x.row<float>(n), *const b = x_mid.row<float>(n),
                       *const c = student_mid.row<float>(n);
    for (std::int64_t d = 0; d < x.cols; ++d) {
      const float value = a[d] - b[d] + part * (b[d] - c[d]);
      if (to.dtype == DType::bf16)
        to.row<bf16>(n)[d] = bf16(value);
      else
        to.row<float>(n)[d] = value;
    }
  }
}

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
void scale_rows(Out to, In from, std::span<const float> weight) {
#pragma omp parallel for schedule(static)
  for (std::int64_t n = 0; n < from.rows; ++n) {
    const float w = weight[static_cast<std::size_t>(n)];
    for (std::int64_t i = 0; i < from.cols; ++i) {
      const float value = w * value_at(from, n, i);
      if (to.dtype == DType::bf16)
        to.row<bf16>(n)[i] = bf16(value);
      else
        to.row<float>(n)[i] = value;
    }
  }
}

}  // namespace

Conversion::Conversion(const Context& context, const Model& dense, const CalibrationText& text,
                       std::vector<std::int64_t> layers, const ConversionOptions& options)
    : ctx_(context),
      dense_(dense),
      text_(text),
      options_(options),
      student_(share_as_stem(dense, std::move(layers))),
      features_(context, dense, text),
      teacher_stream_(context, dense, text),
      target_(dense.precision.narrow, text.size(), dense.config.width) {
  downs_.reserve(student_.config.stem_layers.size());
}

void Conversion::run_dense(std::int64_t layer) {
  require(layer == next_ && student_.config.stem_index(layer) < 0, "run_dense: a layer that stays dense");
  teacher_stream_.advance(ctx_, dense_, layer);
  if (student_stream_) student_stream_->advance(ctx_, student_, layer);
  ++next_;
}

// The dense model's layer, and the attention of the converted one; on the way the sums that rows are solved
// from, and what W_d is to give.
void Conversion::run_teacher(std::int64_t layer, RowCalibration* rows) {
  if (!student_stream_) student_stream_ = std::make_unique<ResidualStream>(teacher_stream_);
  const ResidualStream::Pass teacher_pass(ctx_, dense_, teacher_stream_),
      student_pass(ctx_, student_, *student_stream_);
  for (std::int64_t b = 0; b < text_.batches(); ++b) {
    const TokenBatch batch = text_.batch(b);
    LayerSaved t = teacher_pass.at(b), s = student_pass.at(b);
    const Workspace::Scope scope(*ctx_.workspace);
    forward_attention(ctx_, dense_, layer, batch, t);
    forward_attention(ctx_, student_, layer, batch, s);
    const Out x = ctx_.workspace->matrix(DType::f32, batch.size(), t.x_mid.cols);
    forward_ffn(ctx_, dense_, layer, RowPlan(dense_.table, batch), t, x);
    if (rows != nullptr) {
      forward_ffn(ctx_, student_, layer, RowPlan(student_.table, batch), s, {});
      rows->add(ctx_, batch.tokens, t.normed_ffn, s.gate_up, t.hidden);
      set_target(target_.view.slice_rows(text_.first(b), batch.size()), x, t.x_mid, s.x_mid,
                 options_.catch_up);
    }
    std::memcpy(t.x_mid.data, x.data, static_cast<std::size_t>(x.size()) * sizeof(float));
  }
}

void Conversion::refit(std::int64_t layer, In rows) {
  const std::int64_t ffn = dense_.config.ffn, width = dense_.config.width;
  std::vector<float> weight(static_cast<std::size_t>(text_.size()));
  double mean = 0;
  for (std::int64_t n = 0; n < text_.size(); ++n) {
    const double square = mean_square(target_, n);
    weight[static_cast<std::size_t>(n)] = static_cast<float>(square);
    if (n % text_.sequence() != 0) mean += square / static_cast<double>(text_.size());
  }
  for (float& w : weight)
    w = static_cast<float>(1.0 / std::sqrt(static_cast<double>(w) + kSmallestTarget * mean + 1e-30));
  const Tensor squares(DType::f32, ffn, ffn), products(DType::f32, ffn, width);
  {
    const ResidualStream::Pass pass(ctx_, student_, *student_stream_);
    for (std::int64_t b = 0; b < text_.batches(); ++b) {
      const TokenBatch batch = text_.batch(b);
      LayerSaved s = pass.at(b);
      const Workspace::Scope scope(*ctx_.workspace);
      RowPlan plan(student_.table, batch);
      read_rows(plan, text_, batch, student_.config.stem_index(layer), rows);
      forward_ffn(ctx_, student_, layer, plan, s, {});
      const std::span<const float> w(weight.data() + text_.first(b), static_cast<std::size_t>(batch.size()));
      const Out z = ctx_.workspace->matrix(s.hidden.dtype, batch.size(), ffn);
      const Out y = ctx_.workspace->matrix(s.hidden.dtype, batch.size(), width);
      scale_rows(z, s.hidden, w);
      scale_rows(y, target_.view.slice_rows(text_.first(b), batch.size()), w);
      add_outer_products(ctx_, squares, z, z);
      add_outer_products(ctx_, products, z, y);
    }
  }
  // (G + λI) W_dᵀ = Zᵀ Y + λ W_dᵀ of the dense model.
  const In dense_down = dense_.weights.layers[static_cast<std::size_t>(layer)].down;
  double diagonal = 0;
  for (std::int64_t f = 0; f < ffn; ++f) diagonal += static_cast<double>(squares.view.row<float>(f)[f]);
  const auto pull = static_cast<float>(options_.ridge * diagonal / static_cast<double>(ffn));
  for (std::int64_t f = 0; f < ffn; ++f) {
    for (std::int64_t d = 0; d < width; ++d)
      products.view.row<float>(f)[d] += pull * dense_down.row<float>(d)[f];
  }
  solve_ridge(products, squares, products, options_.ridge);
  const Tensor down(DType::f32, width, ffn);
  for (std::int64_t d = 0; d < width; ++d) {
    for (std::int64_t f = 0; f < ffn; ++f) down.view.row<float>(d)[f] = products.view.row<float>(f)[d];
  }
  downs_.emplace_back(ctx_, student_, layer, down);
}

void Conversion::run_student(std::int64_t layer, In rows) {
  const ResidualStream::Pass pass(ctx_, student_, *student_stream_);
  for (std::int64_t b = 0; b < text_.batches(); ++b) {
    const TokenBatch batch = text_.batch(b);
    LayerSaved s = pass.at(b);
    const Workspace::Scope scope(*ctx_.workspace);
    RowPlan plan(student_.table, batch);
    read_rows(plan, text_, batch, student_.config.stem_index(layer), rows);
    forward_ffn(ctx_, student_, layer, plan, s, s.x_mid);
  }
}

double Conversion::stream_error() const {
  double sum = 0;
  std::int64_t positions = 0;
#pragma omp parallel for schedule(static) reduction(+ : sum, positions)
  for (std::int64_t n = 0; n < text_.size(); ++n) {
    if (n % text_.sequence() == 0) continue;
    const float *const x = teacher_stream_.all().row<float>(n), *const y =
                                                                    student_stream_->all().row<float>(n);
    double error = 0, size = 0;
    for (std::int64_t d = 0; d < dense_.config.width; ++d) {
      const auto e = static_cast<double>(y[d] - x[d]), v = static_cast<double>(x[d]);
      error += e * e, size += v * v;
    }
    if (size > 0) sum += error / size;
    ++positions;
  }
  return sum / static_cast<double>(std::max<std::int64_t>(positions, 1));
}

ConvertedLayer Conversion::convert(std::int64_t layer, const RowSink& sink) {
  require(layer == next_ && student_.config.stem_index(layer) >= 0, "convert: a layer to convert");
  const ModelConfig& c = dense_.config;
  const Tensor rows(DType::f32, static_cast<std::int64_t>(text_.distinct().size()), c.ffn);
  {
    RowCalibration calibration(text_, features_, c.width, c.ffn);
    run_teacher(layer, &calibration);
    calibration.fit(ctx_, dense_.weights.layers[static_cast<std::size_t>(layer)].up, options_.prior);
    calibration.rows(ctx_, text_.distinct(), rows);
    constexpr std::int64_t kPiece = 2048;
    std::vector<std::int32_t> tokens;
    for (std::int64_t first = 0; first < c.vocab; first += kPiece) {
      const std::int64_t count = std::min(kPiece, c.vocab - first);
      tokens.clear();
      for (std::int64_t t = first; t < first + count; ++t) tokens.push_back(static_cast<std::int32_t>(t));
      const Workspace::Scope scope(*ctx_.workspace);
      const Out piece = ctx_.workspace->matrix(DType::f32, count, c.ffn);
      calibration.rows(ctx_, tokens, piece);
      sink(first, piece);
    }
  }
  refit(layer, rows);
  run_student(layer, rows);
  ++next_;
  ConvertedLayer result{layer, Tensor(DType::f32, c.width, c.ffn), stream_error()};
  stem::convert(ctx_, result.down, downs_.back().values());
  return result;
}

void Conversion::resume(std::int64_t layer, In rows, In down) {
  require(layer == next_ && student_.config.stem_index(layer) >= 0, "resume: a layer that was converted");
  run_teacher(layer, nullptr);
  downs_.emplace_back(ctx_, student_, layer, down);
  run_student(layer, rows);
  ++next_;
}

}  // namespace stem
