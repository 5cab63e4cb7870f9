#include "convert/conversion.h"

#include <algorithm>
#include <cstring>

#include "convert/text_rows.h"
#include "convert/weight_refit.h"
#include "ops/linear.h"

namespace stem {
namespace {

// to = (after − before) + share · (before − student's before): what a half of a layer adds, and what earlier
// ones lost.
void set_target(Out to, In after, In before, In student_before, double share) {
  const auto part = static_cast<float>(share);
#pragma omp parallel for schedule(static)
  for (std::int64_t n = 0; n < after.rows; ++n) {
    const float *const a = after.row<float>(n), *const b = before.row<float>(n),
                       *const c = student_before.row<float>(n);
    for (std::int64_t d = 0; d < after.cols; ++d) {
      const float value = a[d] - b[d] + part * (b[d] - c[d]);
      if (to.dtype == DType::bf16)
        to.row<bf16>(n)[d] = bf16(value);
      else
        to.row<float>(n)[d] = value;
    }
  }
}

}  // namespace

std::string_view name_of(RefitScope scope) {
  return scope == RefitScope::all ? "all" : "converted";
}

Conversion::Conversion(const Context& context, const Model& dense, const CalibrationText& text,
                       std::vector<std::int64_t> layers, const ConversionOptions& options)
    : ctx_(context),
      dense_(dense),
      text_(text),
      options_(options),
      student_(share_as_stem(dense, std::move(layers))),
      features_(context, dense, text),
      teacher_stream_(context, dense, text),
      target_(dense.precision.narrow, text.size(), dense.config.width) {}

bool Conversion::changes(std::int64_t layer) const {
  return student_.config.stem_index(layer) >= 0 || (student_stream_ && options_.refit == RefitScope::all);
}

void Conversion::run(std::int64_t layer) {
  require(layer == next_ && !changes(layer), "run: a layer that stays as it is");
  teacher_stream_.advance(ctx_, dense_, layer);
  if (student_stream_) student_stream_->advance(ctx_, student_, layer);
  ++next_;
}

RowPlan Conversion::plan_of(const TokenBatch& batch, std::int64_t layer, In rows) const {
  RowPlan plan(student_.table, batch);
  const std::int64_t s = student_.config.stem_index(layer);
  if (s >= 0) read_rows(plan, text_, batch, s, rows);
  return plan;
}

// W_o, to what the dense attention adds: neither stream moves.
void Conversion::refit_attention(std::int64_t layer) {
  const std::int64_t width = dense_.config.width;
  const In before = dense_.weights.layers[static_cast<std::size_t>(layer)].o;
  const Tensor attended(target_.view.dtype, text_.size(), before.cols);
  {
    const ResidualStream::Pass teacher_pass(ctx_, dense_, teacher_stream_),
        student_pass(ctx_, student_, *student_stream_);
    for (std::int64_t b = 0; b < text_.batches(); ++b) {
      const TokenBatch batch = text_.batch(b);
      LayerSaved t = teacher_pass.at(b), s = student_pass.at(b);
      const Workspace::Scope scope(*ctx_.workspace);
      t.x_mid = ctx_.workspace->matrix(t.x_in.dtype, batch.size(), width);
      s.x_mid = ctx_.workspace->matrix(s.x_in.dtype, batch.size(), width);
      forward_attention(ctx_, dense_, layer, batch, t);
      forward_attention(ctx_, student_, layer, batch, s);
      set_target(target_.view.slice_rows(text_.first(b), batch.size()), t.x_mid, t.x_in, s.x_in,
                 options_.catch_up);
      stem::convert(ctx_, attended.view.slice_rows(text_.first(b), batch.size()), s.attended);
    }
  }
  WeightRefit refit(target_, before.cols, text_.sequence());
  for (std::int64_t b = 0; b < text_.batches(); ++b)
    refit.add(ctx_, text_.first(b), attended.view.slice_rows(text_.first(b), text_.batch(b).size()));
  refitted_.emplace_back(ctx_, student_, layer, &LayerTensors::o, refit.solve(before, options_.ridge));
}

// The dense model's layer, and the attention of the converted one; on the way the sums that rows are solved
// from, and what W_d is to give.
void Conversion::run_teacher(std::int64_t layer, bool set_targets, RowCalibration* rows) {
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
    }
    if (set_targets)
      set_target(target_.view.slice_rows(text_.first(b), batch.size()), x, t.x_mid, s.x_mid,
                 options_.catch_up);
    std::memcpy(t.x_mid.data, x.data, static_cast<std::size_t>(x.size()) * sizeof(float));
  }
}

void Conversion::refit_down(std::int64_t layer, In rows) {
  WeightRefit refit(target_, dense_.config.ffn, text_.sequence());
  {
    const ResidualStream::Pass pass(ctx_, student_, *student_stream_);
    for (std::int64_t b = 0; b < text_.batches(); ++b) {
      const TokenBatch batch = text_.batch(b);
      LayerSaved s = pass.at(b);
      const Workspace::Scope scope(*ctx_.workspace);
      forward_ffn(ctx_, student_, layer, plan_of(batch, layer, rows), s, {});
      refit.add(ctx_, text_.first(b), s.hidden);
    }
  }
  refitted_.emplace_back(
      ctx_, student_, layer, &LayerTensors::down,
      refit.solve(dense_.weights.layers[static_cast<std::size_t>(layer)].down, options_.ridge));
}

void Conversion::run_student(std::int64_t layer, In rows) {
  const ResidualStream::Pass pass(ctx_, student_, *student_stream_);
  for (std::int64_t b = 0; b < text_.batches(); ++b) {
    const TokenBatch batch = text_.batch(b);
    LayerSaved s = pass.at(b);
    const Workspace::Scope scope(*ctx_.workspace);
    forward_ffn(ctx_, student_, layer, plan_of(batch, layer, rows), s, s.x_mid);
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
    if (!(size <= 0)) sum += error / size;  // not a number where the dense stream is none
    ++positions;
  }
  return sum / static_cast<double>(std::max<std::int64_t>(positions, 1));
}

// The layer's rows for the text's distinct tokens [R, F]; those of the whole vocabulary go to `sink`.
Tensor Conversion::solve_rows(std::int64_t layer, RowCalibration& calibration, const RowSink& sink) {
  const ModelConfig& c = dense_.config;
  Tensor rows(DType::f32, std::ssize(text_.distinct()), c.ffn);
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
  return rows;
}

ConvertedLayer Conversion::convert(std::int64_t layer, const RowSink& sink) {
  require(layer == next_ && changes(layer), "convert: a layer that becomes another");
  ConvertedLayer result{layer, {}, {}, 0};
  const auto copy_of_last = [&] {
    const In values = refitted_.back().values();
    Tensor copy(DType::f32, values.rows, values.cols);
    stem::convert(ctx_, copy, values);
    return copy;
  };
  if (student_stream_ && options_.refit == RefitScope::all) {
    refit_attention(layer);
    result.o = copy_of_last();
  }
  if (!student_stream_) student_stream_ = std::make_unique<ResidualStream>(teacher_stream_);
  Tensor rows;
  if (student_.config.stem_index(layer) >= 0) {
    RowCalibration calibration(text_, features_, dense_.config.width, dense_.config.ffn);
    run_teacher(layer, true, &calibration);
    rows = solve_rows(layer, calibration, sink);
  } else {
    run_teacher(layer, true, nullptr);
  }
  refit_down(layer, rows);
  result.down = copy_of_last();
  run_student(layer, rows);
  ++next_;
  result.stream_error = stream_error();
  return result;
}

void Conversion::resume(std::int64_t layer, In rows, In down, In o) {
  require(layer == next_ && changes(layer), "resume: a layer that became another");
  if (o) refitted_.emplace_back(ctx_, student_, layer, &LayerTensors::o, o);
  if (!student_stream_) student_stream_ = std::make_unique<ResidualStream>(teacher_stream_);
  run_teacher(layer, false, nullptr);
  refitted_.emplace_back(ctx_, student_, layer, &LayerTensors::down, down);
  run_student(layer, rows);
  ++next_;
}

}  // namespace stem
