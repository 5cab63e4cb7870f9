#include "model/experts.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/glu.h"
#include "ops/linear.h"
#include "ops/moe.h"

namespace stem {
namespace {

// Adds the time until it is destroyed.
class Timed {
 public:
  explicit Timed(double& seconds) : seconds_(seconds) {}
  ~Timed() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The part of `sorted` [M, ·] that belongs to expert e.
Out rows_of(const Dispatch& d, std::int64_t e, Out sorted) {
  return sorted.slice_rows(d.offsets[e], d.offsets[e + 1] - d.offsets[e]);
}

// Expert e's matrix of the stack `all` [E·rows, ·].
Out expert_of(Out all, std::int64_t e, std::int64_t experts) {
  const std::int64_t rows = all.rows / experts;
  return all.slice_rows(e * rows, rows);
}

// Every expert's layer on its own rows; `w` [E·out, in] stacks their matrices.
void experts_linear_forward(const Context& ctx, const Dispatch& d, Out y, Out x, Out w) {
  std::vector<LinearPart> parts;
  for (std::int64_t e = 0; e < d.experts; ++e)
    parts.push_back({rows_of(d, e, y), rows_of(d, e, x), Weight{expert_of(w, e, d.experts)}});
  linear_forward_group(ctx, parts);
}

void experts_linear_backward(const Context& ctx, const Dispatch& d, Out d_x, Out d_w, Out d_y, Out x, Out w) {
  std::vector<LinearGradientPart> parts;
  for (std::int64_t e = 0; e < d.experts; ++e) {
    parts.push_back({rows_of(d, e, d_x), d_w ? expert_of(d_w, e, d.experts) : Out{}, rows_of(d, e, d_y),
                     rows_of(d, e, x), Weight{expert_of(w, e, d.experts)}});
  }
  linear_backward_group(ctx, parts);
}

// The rows in use, of matrices that have room for every padding.
ExpertsSaved in_use(const ExpertsSaved& s) {
  ExpertsSaved used = s;
  const std::int64_t m = s.dispatch.row_count();
  for (Out* matrix : {&used.in, &used.gate_up, &used.hidden, &used.out}) *matrix = matrix->slice_rows(0, m);
  return used;
}

void choose_experts(const Context& ctx, const Model& model, const LayerTensors& w, const TokenBatch& batch,
                    In normed, ExpertsSaved& s) {
  Dispatch& d = s.dispatch;
  if (w.router) {
    Workspace::Scope scope(*ctx.workspace);
    const Out logits = ctx.workspace->matrix(model.precision.wide, d.positions, d.experts);
    linear_forward(ctx, logits, normed, Weight{w.router});
    route_forward(ctx, s.probabilities, s.lse, s.mix, d, logits);
  } else {
    for (std::int64_t n = 0; n < d.positions; ++n) {
      const std::int32_t token = batch.tokens[static_cast<std::size_t>(n)];
      d.expert[n] = model.hashed_expert[static_cast<std::size_t>(token)];
    }
  }
  sort_by_expert(ctx, d);
}

void add_statistics(const Context& ctx, const ModelConfig& c, const ExpertsSaved& s, RouterStats& stats) {
  const Dispatch& d = s.dispatch;
  if (ctx.inference || d.positions == 0) return;
  const double layers = static_cast<double>(c.stem_layers.size()),
               assignments = static_cast<double>(d.positions * d.chosen);
  ++stats.layers;
  const std::int32_t largest = *std::max_element(d.counts, d.counts + d.experts);
  stats.load_ratio =
      std::max(stats.load_ratio, static_cast<double>(largest) * static_cast<double>(d.experts) / assignments);
  if (s.probabilities) {
    const RouterSums sums = router_sums(ctx, s.probabilities, s.lse, d);
    stats.balance_loss += c.experts.balance_loss * sums.balance;
    stats.z_loss += c.experts.z_loss * sums.z;
    stats.entropy += sums.entropy / layers;
    return;
  }
  for (std::int64_t e = 0; e < d.experts; ++e) {
    const double share = static_cast<double>(d.counts[e]) / assignments;
    if (share > 0) stats.entropy -= share * std::log(share) / layers;
  }
}

}  // namespace

ExpertsSaved allocate_experts(const Context& ctx, const Model& model, std::int64_t n) {
  const ModelConfig& c = model.config;
  const ExpertShape shape = c.expert_shape();
  const DType wide = model.precision.wide, narrow = ctx.inference ? wide : model.precision.narrow;
  const std::int64_t rows = max_dispatch_rows(ctx, n, shape.chosen, shape.experts);
  Workspace& memory = *ctx.workspace;
  ExpertsSaved s;
  s.dispatch = allocate_dispatch(ctx, n, shape.chosen, shape.experts);
  if (c.variant == FfnVariant::moe) {
    s.probabilities = memory.matrix(wide, n, shape.experts);
    s.lse = memory.matrix(wide, 1, n);
    s.mix = memory.matrix(wide, n, shape.chosen);
  }
  s.in = memory.matrix(narrow, rows, c.width);
  s.gate_up = memory.matrix(narrow, rows, 2 * shape.width);
  s.hidden = memory.matrix(narrow, rows, shape.width);
  s.out = memory.matrix(narrow, rows, c.width);
  return s;
}

void experts_forward(const Context& ctx, const Model& model, std::size_t l, const TokenBatch& batch, Out x,
                     LayerSaved& saved, RouterStats& stats) {
  const LayerTensors& w = model.gemm_weights().layers[l];
  const Dispatch& d = saved.experts.dispatch;
  {
    const Timed routing(stats.seconds);
    choose_experts(ctx, model, w, batch, saved.normed_ffn, saved.experts);
    dispatch_forward(ctx, saved.experts.in.slice_rows(0, d.row_count()), saved.normed_ffn, d);
  }
  const ExpertsSaved s = in_use(saved.experts);
  experts_linear_forward(ctx, d, s.gate_up, s.in, w.experts_gate_up);
  const std::int64_t f = s.hidden.cols;
  swiglu_forward(ctx, s.hidden, s.gate_up.slice_cols(0, f), s.gate_up.slice_cols(f, f));
  experts_linear_forward(ctx, d, s.out, s.hidden, w.experts_down);
  const Timed routing(stats.seconds);
  combine_forward(ctx, x, s.out, s.mix, d);
  add_statistics(ctx, model.config, s, stats);
}

void experts_backward(const Context& ctx, const Model& model, std::size_t l, Out d_normed, In d_x,
                      const LayerSaved& saved, Gradients& g, RouterStats& stats) {
  const ModelConfig& c = model.config;
  const LayerTensors& w = model.gemm_weights().layers[l];
  const LayerTensors& d_w = g.wanted.layers[l];
  const ExpertsSaved s = in_use(saved.experts);
  const Dispatch& d = s.dispatch;
  const DType narrow = model.precision.narrow, wide = model.precision.wide;
  Workspace::Scope scope(*ctx.workspace);
  Workspace& memory = *ctx.workspace;

  const Out d_out = memory.matrix(narrow, s.out.rows, c.width);
  const Out d_mix = s.mix ? memory.matrix(wide, d.positions, d.chosen) : Out{};
  {
    const Timed routing(stats.seconds);
    combine_backward(ctx, d_out, d_mix, d_x, s.out, s.mix, d);
  }
  const std::int64_t f = s.hidden.cols;
  const Out d_hidden = memory.matrix(narrow, s.hidden.rows, f);
  experts_linear_backward(ctx, d, d_hidden, d_w.experts_down, d_out, s.hidden, w.experts_down);
  const Out d_gate_up = memory.matrix(narrow, s.gate_up.rows, 2 * f);
  swiglu_backward(ctx, d_gate_up.slice_cols(0, f), d_gate_up.slice_cols(f, f), d_hidden,
                  s.gate_up.slice_cols(0, f), s.gate_up.slice_cols(f, f));
  const Out d_in = d_out;  // read for the last time above
  experts_linear_backward(ctx, d, d_in, d_w.experts_gate_up, d_gate_up, s.in, w.experts_gate_up);
  const Timed routing(stats.seconds);
  if (w.router) {
    const Out d_logits = memory.matrix(wide, d.positions, d.experts);
    route_backward(ctx, d_logits, d_mix, s.mix, s.probabilities, s.lse, d,
                   g.auxiliary_weight * c.experts.balance_loss, g.auxiliary_weight * c.experts.z_loss);
    linear_backward(ctx, d_normed, d_w.router, as_type(ctx, d_logits, narrow), saved.normed_ffn,
                    Weight{w.router});
  } else {
    std::memset(d_normed.data, 0, static_cast<std::size_t>(d_normed.size() * size_of(d_normed.dtype)));
  }
  dispatch_backward(ctx, d_normed, d_in, d);
}

}  // namespace stem
