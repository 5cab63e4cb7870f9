#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace stem {
namespace {

AdamW adam(const GroupOptions& group, std::int64_t step, double norm) {
  AdamW a;
  a.lr = group.lr;
  a.decay = group.decay;
  a.step = step;
  a.grad_scale = group.clip > 0 && norm > group.clip ? static_cast<float>(group.clip / norm) : 1.0f;
  return a;
}

}  // namespace

RowState::RowState(DType dtype, std::int64_t vocab, std::int64_t cols)
    : m(dtype, vocab, cols), v(dtype, vocab, cols), last_step(static_cast<std::size_t>(vocab), 0) {}

Optimizer::Optimizer(const Model& model)
    : m(model.config, model.precision.wide), v(model.config, model.precision.wide) {
  const ModelConfig& c = model.config;
  if (c.stem_layer_count() > 0) table = RowState(model.precision.wide, c.vocab, c.table_shape().record());
  if (!c.tied) embedding = RowState(model.precision.wide, c.vocab, c.width);
}

StepNorms Optimizer::update(const Context& ctx, Model& model, const Gradients& g,
                            std::span<const std::int32_t> tokens, std::int64_t step,
                            const GroupOptions& dense, const GroupOptions& rows) {
  const OptimizerKernels& k = ctx.kernels->optimizer;
  const auto norm = [&](double squared) { return std::sqrt(squared); };
  StepNorms norms;
  double squared = k.squared_norm(g.dense.flat);
  if (g.embedding) squared += k.squared_norm(g.embedding);
  norms.dense = norm(squared);
  if (g.rows) norms.table = norm(k.squared_norm(g.rows));

  // All four structures list their tensors in one order: walk them together.
  struct Slice {
    Out w, m, v, g, copy;
    TensorKind kind = TensorKind::norm;
  };
  std::vector<Slice> slices;
  const auto collect = [&](const DenseTensors& tensors, Out Slice::*member) {
    std::size_t i = 0;
    for_each_tensor(model.config, tensors, [&](const std::string&, Out view, TensorKind kind) {
      if (slices.size() <= i) slices.emplace_back();
      slices[i].kind = kind;
      slices[i++].*member = {view.data, view.dtype, 1, view.size(), view.size()};
    });
  };
  collect(model.weights, &Slice::w);
  collect(m, &Slice::m);
  collect(v, &Slice::v);
  collect(g.dense, &Slice::g);
  if (model.compute.flat) collect(model.compute, &Slice::copy);
  for (const Slice& s : slices) {
    AdamW a = adam(dense, step, norms.dense);
    if (s.kind == TensorKind::norm) a.decay = 0.0f;
    k.adamw(s.w, s.m, s.v, s.g, s.copy, a);
  }
  const auto touch = [&](RowState& state) {
    for (const std::int32_t token : tokens) state.last_step[static_cast<std::size_t>(token)] = step;
  };
  if (g.rows) {
    k.adamw_rows(model.table.writable_records(), table.m, table.v, g.rows, tokens,
                 adam(rows, step, norms.table));
    touch(table);
  }
  if (g.embedding) {
    k.adamw_rows(model.embedding, embedding.m, embedding.v, g.embedding, tokens,
                 adam(dense, step, norms.dense));
    touch(embedding);
  }
  return norms;
}

double learning_rate(double peak, std::int64_t step, std::int64_t warmup, std::int64_t total, double floor) {
  if (warmup > 0 && step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const double span = static_cast<double>(std::max<std::int64_t>(total - warmup, 1));
  const double progress = std::clamp(static_cast<double>(step - warmup) / span, 0.0, 1.0);
  return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace stem
