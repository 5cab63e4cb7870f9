#include "convert/first_state.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "convert/least_squares.h"
#include "convert/residual_stream.h"
#include "ops/linear.h"

namespace stem {
namespace {

constexpr double kRidge = 1e-6;  // of the mean diagonal: keeps the equations definite

float silu(float x) {
  return x / (1.0f + std::exp(-x));
}

}  // namespace

FirstState::FirstState(const Context& ctx, const Model& model, std::int32_t start)
    : text_({start}, 1), states_(DType::f32, model.config.layers, model.config.width) {
  ResidualStream stream(ctx, model, text_);
  for (std::int64_t l = 0; l < model.config.layers; ++l) {
    stream.advance(ctx, model, l);
    stem::convert(ctx, states_.view.slice_rows(l, 1), stream.all());
  }
}

double FirstState::restore(const Context& ctx, Model& student) const {
  const ModelConfig& c = student.config;
  const std::int32_t start = text_.tokens().front();
  const TokenBatch batch = text_.batch(0);
  ResidualStream stream(ctx, student, text_);
  const Tensor columns(DType::f32, c.ffn, c.width), squares(DType::f32, c.width, c.width),
      missing(DType::f32, c.width, 1);
  double worst = 0;
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const std::int64_t s = c.stem_index(l);
    if (s < 0) {
      stream.advance(ctx, student, l);
      continue;
    }
    const ResidualStream::Pass pass(ctx, student, stream);
    LayerSaved saved = pass.at(0);
    const Workspace::Scope scope(*ctx.workspace);
    forward_attention(ctx, student, l, batch, saved);
    const Out x = ctx.workspace->matrix(DType::f32, 1, c.width),
              gate = ctx.workspace->matrix(DType::f32, 1, c.ffn);
    forward_ffn(ctx, student, l, RowPlan(student.table, batch), saved, x);
    stem::convert(ctx, gate, saved.gate_up);
    const float *const wanted = states_.view.row<float>(l), *const found = x.row<float>(0);
    double error = 0, size = 0;
    for (std::int64_t d = 0; d < c.width; ++d) {
      const auto e = static_cast<double>(wanted[d]) - static_cast<double>(found[d]);
      missing.view.row<float>(d)[0] = static_cast<float>(e);
      error += e * e, size += static_cast<double>(wanted[d]) * static_cast<double>(wanted[d]);
    }
    worst = std::max(worst, std::sqrt(error / size));

    // The least ΔU with A ΔU = missing, A = W_d diag(SiLU(gate)): Aᵀ (A Aᵀ)⁻¹ missing.
    const In down = student.weights.layers[static_cast<std::size_t>(l)].down;
    for (std::int64_t f = 0; f < c.ffn; ++f) {
      const float g = silu(gate.row<float>(0)[f]);
      for (std::int64_t d = 0; d < c.width; ++d) columns.view.row<float>(f)[d] = g * down.row<float>(d)[f];
    }
    std::memset(squares.view.data, 0, squares.buffer.size());
    add_outer_products(ctx, squares, columns, columns);
    solve_ridge(missing, squares, missing, kRidge);
    float* const row = student.table.writable_records().row<float>(start) + s * c.ffn;
    for (std::int64_t f = 0; f < c.ffn; ++f) {
      double step = 0;
      for (std::int64_t d = 0; d < c.width; ++d)
        step += static_cast<double>(columns.view.row<float>(f)[d] * missing.view.row<float>(d)[0]);
      row[f] += static_cast<float>(step);
    }
    forward_ffn(ctx, student, l, RowPlan(student.table, batch), saved, saved.x_mid);
  }
  return worst;
}

}  // namespace stem
