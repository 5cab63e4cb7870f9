#include "model/weights.h"

#include <algorithm>

namespace stem {
namespace {
constexpr std::int64_t kAlignElements =
    32;  // 64 bytes of bf16: every tensor starts on a cache line in every dtype
// Where views lead that have a shape alone.
char nowhere[64];
}  // namespace

// Returns the elements that all tensors take, padding included.
std::int64_t DenseTensors::lay_out(const ModelConfig& c, DType dtype, char* base, bool vectors_only) {
  std::int64_t used = 0;
  const ExpertShape experts = c.expert_shape();
  const auto take = [&](std::int64_t rows, std::int64_t cols) -> Out {
    if (vectors_only && rows > 1) return {nowhere, dtype, rows, cols, cols};
    const Out view{base == nullptr ? nullptr : base + used * size_of(dtype), dtype, rows, cols, cols};
    used += (rows * cols + kAlignElements - 1) / kAlignElements * kAlignElements;
    return view;
  };
  layers.assign(static_cast<std::size_t>(c.layers), {});
  for (std::int64_t l = 0; l < c.layers; ++l) {
    LayerTensors& t = layers[static_cast<std::size_t>(l)];
    const FfnVariant ffn = c.ffn_of(l);
    const bool has_gate = ffn != FfnVariant::stem_gate, has_up = ffn != FfnVariant::stem;
    t.attention_norm = take(1, c.width);
    t.qkv = take(c.qkv_width(), c.width);
    if (c.qkv_bias) t.qkv_bias = take(1, c.qkv_width());
    if (c.qk_norm) t.q_norm = take(1, c.head_width), t.k_norm = take(1, c.head_width);
    t.o = take(c.width, c.heads * c.head_width);
    t.ffn_norm = take(1, c.width);
    if (c.is_mixture(l)) {
      if (ffn == FfnVariant::moe) t.router = take(experts.experts, c.width);
      t.experts_gate_up = take(experts.experts * 2 * experts.width, c.width);
      t.experts_down = take(experts.experts * c.width, experts.width);
      continue;
    }
    t.gate_up = take((has_gate ? c.ffn : 0) + (has_up ? c.ffn : 0), c.width);
    if (has_gate && base != nullptr) t.gate = t.gate_up.slice_rows(0, c.ffn);
    if (has_up && base != nullptr) t.up = t.gate_up.slice_rows(t.gate_up.rows - c.ffn, c.ffn);
    t.down = take(c.width, c.ffn);
  }
  final_norm = take(1, c.width);
  head = take(c.vocab, c.width);
  flat = {base, dtype, 1, used, used};
  return used;
}

DenseTensors::DenseTensors(const ModelConfig& c, DType dtype) {
  const std::int64_t count = lay_out(c, dtype, nullptr);  // measures; the second pass hands out views
  buffer = Buffer::zeroed(static_cast<std::size_t>(count * size_of(dtype)));
  lay_out(c, dtype, static_cast<char*>(buffer.data()));
}

DenseTensors DenseTensors::layout(const ModelConfig& config) {
  DenseTensors tensors;
  tensors.lay_out(config, DType::f32, nowhere);
  return tensors;
}

DenseTensors DenseTensors::vectors(const ModelConfig& config, DType dtype) {
  DenseTensors tensors;
  const std::int64_t count = tensors.lay_out(config, dtype, nullptr, true);
  tensors.buffer = Buffer(static_cast<std::size_t>(count * size_of(dtype)));
  tensors.buffer.clear();
  tensors.lay_out(config, dtype, static_cast<char*>(tensors.buffer.data()), true);
  tensors.flat = {};
  return tensors;
}

DenseViews without_frozen(const ModelConfig& config, const DenseTensors& tensors,
                          const FrozenTensors& frozen) {
  DenseViews views = tensors;
  if (frozen.dense.empty()) return views;
  std::vector<const char*> trained;  // where tensors begin that are not frozen
  std::size_t i = 0;
  for_each_tensor(config, tensors, [&](const std::string&, const Out& view, TensorKind) {
    if (!frozen.dense[i++]) trained.push_back(static_cast<const char*>(view.data));
  });
  std::sort(trained.begin(), trained.end());
  for_each_block(views, [&](Out& block) {
    const auto* const begin = static_cast<const char*>(block.data);
    const auto first = std::lower_bound(trained.begin(), trained.end(), begin);
    if (first == trained.end() || *first >= begin + block.size() * size_of(block.dtype)) block = {};
  });
  for (LayerTensors& t : views.layers) {
    if (!t.gate_up) t.gate = t.up = {};
  }
  return views;
}

}  // namespace stem
