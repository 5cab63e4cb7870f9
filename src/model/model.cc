#include "model/model.h"

#include <cmath>

#include "core/rng.h"
#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/moe.h"

namespace stem {
namespace {

constexpr std::uint64_t kTableStream = 1u << 20;  // far from the dense tensors' streams 1, 2, 3, …
constexpr std::uint64_t kEmbeddingStream = kTableStream + 1;

void store(Out view, std::int64_t row, std::int64_t col, double value) {
  if (view.dtype == DType::f64)
    view.row<double>(row)[col] = value;
  else
    view.row<float>(row)[col] = static_cast<float>(value);
}

// `view` holds the rows from `first` on of what the stream fills.
void fill_normal(Out view, double sigma, bool truncated, const Rng& rng, std::int64_t first = 0) {
  const auto total = static_cast<std::uint64_t>(view.size());
  for (std::int64_t r = 0; r < view.rows; ++r) {
    for (std::int64_t c = 0; c < view.cols; ++c) {
      auto counter = static_cast<std::uint64_t>((first + r) * view.cols + c);
      double z = rng.normal_at(counter);
      while (truncated && std::abs(z) > 3.0)
        z = rng.normal_at(counter += total);  // redraw, 0.3 % of the values
      store(view, r, c, sigma * z);
    }
  }
}

}  // namespace

Model::Model(const ModelConfig& c, Precision p, bool with_table)
    : config(c), precision(p), weights(c, p.wide), cos_sin(p.wide, c.max_positions, c.head_width) {
  if (p.narrow != p.wide) compute = DenseTensors(c, p.narrow);
  if (!c.tied) embedding = Tensor(p.wide, c.vocab, c.width);
  if (c.stem_layer_count() > 0)
    table = with_table ? Table::in_memory(c.table_shape(), p.wide) : Table::absent(c.table_shape());
  fill_constants();
}

Model Model::for_serving(const ModelConfig& c) {
  Model model;
  model.config = c;
  model.weights = DenseTensors::vectors(c, DType::f32);
  model.cos_sin = Tensor(DType::f32, c.max_positions, c.head_width);
  if (c.stem_layer_count() > 0) model.table = Table::absent(c.table_shape());
  model.fill_constants();
  return model;
}

void Model::fill_constants() {
  rope_table(cos_sin, config.rope_theta, config.rope_scaling);
  if (config.variant == FfnVariant::hash_moe) {
    for (std::int32_t t = 0; t < config.vocab; ++t)
      hashed_expert.push_back(hash_expert(config.experts.hash_seed, t, config.expert_shape().experts));
  }
  for_each_tensor(config, weights, [](const std::string&, Out view, TensorKind kind) {
    if (kind == TensorKind::norm) {
      for (std::int64_t i = 0; i < view.cols; ++i) store(view, 0, i, 1.0);
    }
  });
}

LayerWeights Model::layer_weights(std::size_t l) const {
  if (served) return served.layers[l];
  const LayerTensors& t = gemm_weights().layers[l];
  const std::int64_t v = config.kv_heads * config.head_width, qk = config.qkv_width() - v;
  return {.qkv = {t.qkv},
          .qk = {t.qkv.slice_rows(0, qk)},
          .v = {t.qkv.slice_rows(qk, v)},
          .o = {t.o},
          .gate_up = {t.gate_up},
          .down = {t.down}};
}

void Model::refresh_compute(const Context& ctx) {
  if (precision.narrow != precision.wide) convert(ctx, compute.flat, weights.flat);
}

void init_table(Out records, const ModelConfig& c, std::uint64_t seed, std::int64_t first) {
  if (c.variant == FfnVariant::stem_additive) {
    for (std::int64_t r = 0; r < records.rows; ++r) {
      for (std::int64_t i = 0; i < records.cols; ++i) store(records, r, i, 0.0);
    }
    return;
  }
  fill_normal(records, std::sqrt(2.0 / static_cast<double>(c.vocab + c.ffn)), false, Rng(seed, kTableStream),
              first);
}

void init_weights(Model& model, std::uint64_t seed) {
  const ModelConfig& c = model.config;
  const double in_sigma = 1.0 / std::sqrt(static_cast<double>(c.width));
  std::uint64_t stream = 1;
  for_each_tensor(c, model.weights, [&](const std::string&, Out view, TensorKind kind) {
    const Rng rng(seed, stream++);
    if (is_vector(kind)) return;
    const double out_sigma =
        1.0 / std::sqrt(static_cast<double>(view.cols)) / std::sqrt(2.0 * static_cast<double>(c.layers));
    fill_normal(view, kind == TensorKind::matrix_out ? out_sigma : in_sigma, true, rng);
  });
  if (!c.tied) fill_normal(model.embedding, in_sigma, true, Rng(seed, kEmbeddingStream));
  if (model.table.present()) init_table(model.table.writable_records(), c, seed);
}

}  // namespace stem
