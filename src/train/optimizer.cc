#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

namespace stem {
namespace {

AdamW adam(const GroupOptions& group, std::int64_t update, double norm) {
  AdamW a;
  a.lr = group.lr;
  a.decay = group.decay;
  a.step = update;
  a.grad_scale = group.clip > 0 && norm > group.clip ? static_cast<float>(group.clip / norm) : 1.0f;
  return a;
}

// One tensor of all structures that share the dense layout.
struct Slice {
  Out w, m, v, g, copy;
  TensorKind kind = TensorKind::norm;
};

Out flat(const Out& view) {
  return {view.data, view.dtype, 1, view.size(), view.size()};
}

}  // namespace

TableOptimizer table_optimizer_from(std::string_view name) {
  if (name == "lazy") return TableOptimizer::lazy;
  if (name == "exact") return TableOptimizer::exact;
  fail(ErrorCode::kUsage, "train.table_optimizer: expected lazy or exact, found \"{}\"", name);
}

RowState::RowState(DType dtype, std::int64_t vocab, std::int64_t cols)
    : m(Tensor::sparse(dtype, vocab, cols)),
      v(Tensor::sparse(dtype, vocab, cols)),
      last_step(static_cast<std::size_t>(vocab), 0) {}

Optimizer::Optimizer(const Model& model, TableOptimizer mode, const Freeze& freeze)
    : m(model.config, model.precision.wide),
      v(model.config, model.precision.wide),
      mode_(mode),
      freeze_(freeze) {
  const ModelConfig& c = model.config;
  if (c.stem_layer_count() > 0 && !freeze.table)
    table = RowState(model.precision.wide, c.vocab, c.table_shape().record());
  if (!c.tied && !freeze.embedding) embedding = RowState(model.precision.wide, c.vocab, c.width);
}

StepNorms Optimizer::norms(const Context& ctx, const Model& model, const Gradients& g) const {
  const OptimizerKernels& k = ctx.kernels->optimizer;
  StepNorms norms;
  double squared = 0;
  if (freeze_.any_dense()) {
    std::size_t i = 0;
    for_each_tensor(model.config, g.dense, [&](const std::string&, const Out& view, TensorKind) {
      if (!freeze_.dense[i++]) squared += k.squared_norm(flat(view));
    });
  } else {
    squared = k.squared_norm(g.dense.flat);
  }
  if (g.embedding) squared += k.squared_norm(g.embedding);
  norms.dense = std::sqrt(squared);
  if (g.rows) norms.table = std::sqrt(k.squared_norm(g.rows));
  return norms;
}

void Optimizer::update(const Context& ctx, Model& model, const Gradients& g,
                       std::span<const std::int32_t> tokens, const StepNorms& norms,
                       const GroupOptions& dense, const GroupOptions& rows) {
  const OptimizerKernels& k = ctx.kernels->optimizer;
  ++updates_;
  // All structures list their tensors in one order: walk them together.
  std::vector<Slice> slices;
  const auto collect = [&](const DenseTensors& tensors, Out Slice::*member) {
    std::size_t i = 0;
    for_each_tensor(model.config, tensors, [&](const std::string&, const Out& view, TensorKind kind) {
      if (slices.size() <= i) slices.emplace_back();
      slices[i].kind = kind;
      slices[i++].*member = flat(view);
    });
  };
  collect(model.weights, &Slice::w);
  collect(m, &Slice::m);
  collect(v, &Slice::v);
  collect(g.dense, &Slice::g);
  if (model.compute.flat) collect(model.compute, &Slice::copy);
  for (std::size_t i = 0; i < slices.size(); ++i) {
    if (!freeze_.dense.empty() && freeze_.dense[i]) continue;
    AdamW a = adam(dense, updates_, norms.dense);
    if (is_vector(slices[i].kind)) a.decay = 0.0f;
    k.adamw(slices[i].w, slices[i].m, slices[i].v, slices[i].g, slices[i].copy, a);
  }
  const auto update_rows = [&](RowState& state, Out weights, In gradient, const GroupOptions& group,
                               double norm) {
    if (!state.present()) return;
    k.adamw_rows(weights, state.m, state.v, gradient, tokens, adam(group, updates_, norm));
    for (const std::int32_t token : tokens) state.last_step[static_cast<std::size_t>(token)] = updates_;
    if (mode_ == TableOptimizer::exact) state.history.append(group);
  };
  if (table.present()) update_rows(table, model.table.writable_records(), g.rows, rows, norms.table);
  update_rows(embedding, model.embedding, g.embedding, dense, norms.dense);
}

double learning_rate(double peak, std::int64_t step, std::int64_t warmup, std::int64_t total, double floor) {
  if (warmup > 0 && step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const double span = static_cast<double>(std::max<std::int64_t>(total - warmup, 1));
  const double progress = std::clamp(static_cast<double>(step - warmup) / span, 0.0, 1.0);
  return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace stem
