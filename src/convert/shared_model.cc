#include "convert/shared_model.h"

#include "ops/linear.h"

namespace stem {
namespace {

DenseTensors share(const DenseTensors& dense, const ModelConfig& c) {
  DenseTensors shared;
  shared.layers = dense.layers;
  for (const std::int64_t l : c.stem_layers) {
    LayerTensors& t = shared.layers[static_cast<std::size_t>(l)];
    t.gate_up = t.gate;
    t.up = {};
  }
  shared.final_norm = dense.final_norm;
  shared.head = dense.head;
  return shared;
}

}  // namespace

Model share_as_stem(const Model& dense, std::vector<std::int64_t> layers) {
  require(dense.config.variant == FfnVariant::dense && !dense.served, "share_as_stem: a plain dense model");
  Model model;
  model.config = dense.config;
  model.config.variant = FfnVariant::stem;
  model.config.stem_layers = std::move(layers);
  model.precision = dense.precision;
  model.weights = share(dense.weights, model.config);
  if (!dense.compute.layers.empty()) model.compute = share(dense.compute, model.config);
  model.embedding.view = dense.embedding.view;
  model.cos_sin.view = dense.cos_sin.view;
  model.table = Table::absent(model.config.table_shape());
  return model;
}

OwnWeight::OwnWeight(const Context& ctx, Model& model, std::int64_t layer, Out LayerTensors::*which,
                     In values)
    : wide_(model.precision.wide, values.rows, values.cols) {
  const auto l = static_cast<std::size_t>(layer);
  convert(ctx, wide_, values);
  model.weights.layers[l].*which = wide_;
  if (model.compute.layers.empty()) return;
  narrow_ = Tensor(model.precision.narrow, values.rows, values.cols);
  convert(ctx, narrow_, values);
  model.compute.layers[l].*which = narrow_;
}

}  // namespace stem
