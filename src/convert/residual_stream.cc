#include "convert/residual_stream.h"

#include <algorithm>
#include <cstring>

#include "ops/loss.h"

namespace stem {

ResidualStream::ResidualStream(const Context& ctx, const Model& model, const CalibrationText& text)
    : text_(&text), x_(model.precision.wide, text.size(), model.config.width) {
  for (std::int64_t b = 0; b < text.batches(); ++b) forward_embedding(ctx, model, text.batch(b), rows(b));
}

ResidualStream::ResidualStream(const ResidualStream& other)
    : text_(other.text_), x_(other.x_.view.dtype, other.x_.view.rows, other.x_.view.cols) {
  std::memcpy(x_.view.data, other.x_.view.data, x_.buffer.size());
}

Out ResidualStream::rows(std::int64_t batch) const {
  return x_.view.slice_rows(text_->first(batch), text_->batch(batch).size());
}

ResidualStream::Pass::Pass(const Context& ctx, const Model& model, const ResidualStream& stream)
    : stream_(stream),
      scope_(*ctx.workspace),
      all_(allocate_layer_pass(ctx, model, std::min(stream.text().batch_size(), stream.text().size()))) {}

// The last batch may be shorter than the others.
LayerSaved ResidualStream::Pass::at(std::int64_t b) const {
  LayerSaved s = all_;
  s.x_in = s.x_mid = stream_.rows(b);
  for (Out* m :
       {&s.normed_attention, &s.qk_raw, &s.qkv, &s.attended, &s.lse, &s.normed_ffn, &s.gate_up, &s.hidden}) {
    if (*m) m->rows = s.x_in.rows;
  }
  for (Out* m : {&s.inv_rms_attention, &s.inv_rms_ffn, &s.inv_rms_qk}) {
    if (*m) m->cols = m->stride = s.x_in.rows;
  }
  return s;
}

void ResidualStream::advance(const Context& ctx, const Model& model, std::int64_t layer) {
  const Pass pass(ctx, model, *this);
  for (std::int64_t b = 0; b < text_->batches(); ++b) {
    const TokenBatch batch = text_->batch(b);
    LayerSaved s = pass.at(b);
    const Workspace::Scope scope(*ctx.workspace);
    forward_attention(ctx, model, layer, batch, s);
    forward_ffn(ctx, model, layer, RowPlan(model.table, batch), s, s.x_mid);
  }
}

Out ResidualStream::normed(const Context& ctx, const Model& model, std::int64_t batch) const {
  Activations a;
  a.x = rows(batch);
  a.inv_rms_final = ctx.workspace->matrix(model.precision.wide, 1, a.x.rows);
  a.normed_final = ctx.workspace->matrix(model.precision.narrow, a.x.rows, a.x.cols);
  forward_final_norm(ctx, model, a);
  return a.normed_final;
}

std::span<const std::int32_t> ResidualStream::targets(std::int64_t batch) const {
  return std::span(text_->targets())
      .subspan(static_cast<std::size_t>(text_->first(batch)),
               static_cast<std::size_t>(text_->batch(batch).size()));
}

std::vector<float> ResidualStream::losses(const Context& ctx, const Model& model) {
  std::vector<float> losses(static_cast<std::size_t>(text_->size()));
  for (std::int64_t b = 0; b < text_->batches(); ++b) {
    const Workspace::Scope scope(*ctx.workspace);
    const Out x = normed(ctx, model, b);
    lm_head_loss_forward(ctx, matrix(losses.data() + text_->first(b), 1, x.rows), x, model.head_weight(),
                         targets(b));
  }
  return losses;
}

std::vector<float> ResidualStream::divergence(const Context& ctx, const Model& model, const Model& base,
                                              const ResidualStream& base_stream) {
  std::vector<float> losses(static_cast<std::size_t>(text_->size()));
  const std::vector<float> weights(static_cast<std::size_t>(text_->batch_size()), 1.0f);
  for (std::int64_t b = 0; b < text_->batches(); ++b) {
    const Workspace::Scope scope(*ctx.workspace);
    const Out x = normed(ctx, model, b), unused = ctx.workspace->matrix(x.dtype, x.rows, x.cols);
    const SoftTargets soft{base_stream.normed(ctx, base, b), base.head_weight()};
    lm_head_loss_forward_backward(ctx, matrix(losses.data() + text_->first(b), 1, x.rows), unused, {}, x,
                                  model.head_weight(), targets(b),
                                  std::span(weights).first(static_cast<std::size_t>(x.rows)), soft);
  }
  return losses;
}

}  // namespace stem
