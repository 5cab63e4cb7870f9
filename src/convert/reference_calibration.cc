#include "convert/reference_calibration.h"

#include "ops/linear.h"

namespace stem {

ReferenceCalibration::ReferenceCalibration(const Context& ctx, const Model& model,
                                           const CalibrationText& text,
                                           const std::function<void(std::int64_t)>& progress)
    : model_(model), features_(ctx, model, text) {
  const ModelConfig& c = model.config;
  require(c.variant == FfnVariant::stem_additive, "reference rows of a stem_additive model");
  ResidualStream stream(ctx, model, text);
  for (std::int64_t l = 0; l <= c.stem_layers.back(); ++l) {
    if (c.stem_index(l) < 0) {
      stream.advance(ctx, model, l);
    } else {
      layers_.push_back(std::make_unique<NormedMeans>(text, features_, c.width));
      const ResidualStream::Pass pass(ctx, model, stream);
      for (std::int64_t b = 0; b < text.batches(); ++b) {
        const TokenBatch batch = text.batch(b);
        LayerSaved s = pass.at(b);
        const Workspace::Scope scope(*ctx.workspace);
        forward_attention(ctx, model, l, batch, s);
        forward_ffn(ctx, model, l, RowPlan(model.table, batch), s, s.x_mid);
        layers_.back()->add(ctx, batch.tokens, s.normed_ffn);
      }
      layers_.back()->fit(ctx);
    }
    if (progress) progress(l);
  }
}

void ReferenceCalibration::records(const Context& ctx, std::span<const std::int32_t> tokens, double prior,
                                   Out records) const {
  const ModelConfig& c = model_.config;
  const Workspace::Scope scope(*ctx.workspace);
  const Out means = ctx.workspace->matrix(DType::f32, records.rows, c.width);
  const Out up = ctx.workspace->matrix(DType::f32, records.rows, c.ffn);
  std::vector<float> row(static_cast<std::size_t>(c.ffn));
  for (std::size_t s = 0; s < layers_.size(); ++s) {
    layers_[s]->means(ctx, tokens, prior, means);
    linear_forward(ctx, up, means,
                   Weight{model_.weights.layers[static_cast<std::size_t>(c.stem_layers[s])].up});
    for (std::int64_t i = 0; i < records.rows; ++i) {
      model_.table.read_row(tokens[static_cast<std::size_t>(i)], static_cast<std::int64_t>(s), row);
      float* const to = records.row<float>(i) + static_cast<std::int64_t>(s) * c.ffn;
      for (std::int64_t f = 0; f < c.ffn; ++f) to[f] = up.row<float>(i)[f] + row[static_cast<std::size_t>(f)];
    }
  }
}

}  // namespace stem
