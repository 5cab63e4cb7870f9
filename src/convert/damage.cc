#include "convert/damage.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "convert/residual_stream.h"
#include "convert/row_calibration.h"
#include "convert/shared_model.h"
#include "convert/text_rows.h"

namespace stem {
namespace {

// One dense layer over the calibration text, its rows' sums on the way.
void calibrate(const Context& ctx, const Model& dense, std::int64_t layer, ResidualStream& stream,
               RowCalibration& calibration) {
  const ResidualStream::Pass pass(ctx, dense, stream);
  for (std::int64_t b = 0; b < stream.text().batches(); ++b) {
    const TokenBatch batch = stream.text().batch(b);
    LayerSaved s = pass.at(b);
    const Workspace::Scope scope(*ctx.workspace);
    forward_attention(ctx, dense, layer, batch, s);
    forward_ffn(ctx, dense, layer, RowPlan(dense.table, batch), s, s.x_mid);
    calibration.add(ctx, batch.tokens, s.normed_ffn, s.gate_up.slice_cols(0, dense.config.ffn), s.hidden);
  }
}

double mean_target_loss(const std::vector<float>& losses, const CalibrationText& text) {
  double sum = 0;
  std::int64_t targets = 0;
  for (std::size_t n = 0; n < losses.size(); ++n) {
    if (text.targets()[n] < 0) continue;
    sum += static_cast<double>(losses[n]);
    ++targets;
  }
  return targets > 0 ? sum / static_cast<double>(targets) : 0.0;
}

// Σ over the batch's scored positions of |x' − x|² / |x − x_mid|².
double relative_error(In x, In converted, In x_mid, std::span<const std::int32_t> targets) {
  double sum = 0;
  for (std::int64_t n = 0; n < x.rows; ++n) {
    if (targets[static_cast<std::size_t>(n)] < 0) continue;
    double error = 0, size = 0;
    for (std::int64_t d = 0; d < x.cols; ++d) {
      const auto y = static_cast<double>(x.row<float>(n)[d] - x_mid.row<float>(n)[d]);
      const auto e = static_cast<double>(converted.row<float>(n)[d] - x.row<float>(n)[d]);
      error += e * e, size += y * y;
    }
    if (size > 0) sum += error / size;
  }
  return sum;
}

class Judge {
 public:
  Judge(const Context& ctx, const Model& dense, const CalibrationText& text)
      : ctx_(ctx), dense_(dense), stream_(ctx, dense, text) {
    ResidualStream whole = stream_;
    for (std::int64_t l = 0; l < dense.config.layers; ++l) whole.advance(ctx, dense, l);
    dense_loss_ = mean_target_loss(whole.losses(ctx, dense), text);
  }
  // Without a look at the layer.
  void pass(std::int64_t layer) { stream_.advance(ctx_, dense_, layer); }

  LayerDamage judge(std::int64_t layer, const RowCalibration& calibration) {
    const CalibrationText& text = stream_.text();
    const Model converted = share_as_stem(dense_, {layer});
    const Tensor rows(DType::f32, static_cast<std::int64_t>(text.distinct().size()), dense_.config.ffn);
    calibration.rows(ctx_, text.distinct(), rows);
    LayerDamage result{layer, 0, 0};
    std::optional<ResidualStream> tail;
    {
      const ResidualStream::Pass pass(ctx_, dense_, stream_);
      for (std::int64_t b = 0; b < text.batches(); ++b) {
        LayerSaved s = pass.at(b);
        forward_attention(ctx_, dense_, layer, text.batch(b), s);
      }
      tail.emplace(stream_);
      for (std::int64_t b = 0; b < text.batches(); ++b) {
        const TokenBatch batch = text.batch(b);
        LayerSaved s = pass.at(b);
        const Workspace::Scope scope(*ctx_.workspace);
        const Out before = ctx_.workspace->matrix(DType::f32, s.x_mid.rows, s.x_mid.cols);
        std::memcpy(before.data, s.x_mid.data, static_cast<std::size_t>(before.size()) * sizeof(float));
        RowPlan plan(converted.table, batch);
        read_rows(plan, text, batch, 0, rows);
        forward_ffn(ctx_, converted, layer, plan, s, tail->rows(b));
        forward_ffn(ctx_, dense_, layer, RowPlan(dense_.table, batch), s, s.x_mid);
        result.ffn_error +=
            relative_error(s.x_mid, tail->rows(b), before,
                           std::span(text.targets()).subspan(static_cast<std::size_t>(text.first(b))));
      }
    }
    for (std::int64_t l = layer + 1; l < dense_.config.layers; ++l) tail->advance(ctx_, dense_, l);
    result.damage = mean_target_loss(tail->losses(ctx_, dense_), text) - dense_loss_;
    const auto scored = std::count_if(text.targets().begin(), text.targets().end(),
                                      [](std::int32_t target) { return target >= 0; });
    result.ffn_error /= std::max(1.0, static_cast<double>(scored));
    return result;
  }

 private:
  const Context& ctx_;
  const Model& dense_;
  ResidualStream stream_;
  double dense_loss_ = 0;
};

}  // namespace

std::vector<LayerDamage> measure_damage(const Context& ctx, const Model& dense,
                                        const CalibrationText& calibration, const CalibrationText& held_out,
                                        const std::vector<LayerDamage>& known,
                                        const std::function<void(const LayerDamage&)>& done) {
  const ModelConfig& c = dense.config;
  std::vector<LayerDamage> all;
  ResidualStream stream(ctx, dense, calibration);
  Judge judge(ctx, dense, held_out);
  const TokenFeatures features(ctx, dense, calibration);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    if (static_cast<std::size_t>(l) < known.size()) {
      all.push_back(known[static_cast<std::size_t>(l)]);
      stream.advance(ctx, dense, l);
      judge.pass(l);
      continue;
    }
    RowCalibration rows(calibration, features, c.width, c.ffn);
    calibrate(ctx, dense, l, stream, rows);
    rows.fit(ctx, dense.weights.layers[static_cast<std::size_t>(l)].up);
    all.push_back(judge.judge(l, rows));
    done(all.back());
  }
  return all;
}

std::vector<std::int64_t> least_damaged(const std::vector<LayerDamage>& damage, std::int64_t count) {
  std::vector<LayerDamage> order = damage;
  std::stable_sort(order.begin(), order.end(),
                   [](const LayerDamage& a, const LayerDamage& b) { return a.damage < b.damage; });
  std::vector<std::int64_t> layers;
  for (std::size_t i = 0; i < order.size() && static_cast<std::int64_t>(i) < count; ++i)
    layers.push_back(order[i].layer);
  std::sort(layers.begin(), layers.end());
  return layers;
}

}  // namespace stem
