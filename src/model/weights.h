// The dense weights, listed once: one visitor drives init, load, save, optimizer, digest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/workspace.h"
#include "model/config.h"

namespace stem {

/// How a tensor is initialised, decayed and stored.
enum class TensorKind {
  embedding,   ///< [V, D], token embedding or output head
  norm,        ///< [1, D], starts at one, no weight decay; stored as a vector [D]
  bias,        ///< [1, out], starts at zero, no weight decay; stored as a vector
  matrix_in,   ///< [out, D]: reads the residual stream
  matrix_out,  ///< [D, in]: writes to the residual stream
};

inline bool is_vector(TensorKind kind) {
  return kind == TensorKind::norm || kind == TensorKind::bias;
}

/// One layer's tensors; a null view where the FFN variant has none.
struct LayerTensors {
  Out attention_norm;  // [1, D]
  Out qkv;             // [(H + 2K)·A, D]: q_proj, k_proj, v_proj one below the other
  Out qkv_bias;        // [1, (H + 2K)·A], only with config.qkv_bias
  Out q_norm, k_norm;  // [1, A], only with config.qk_norm
  Out o;               // [D, H·A]
  Out ffn_norm;        // [1, D]
  Out gate_up;         // [F or 2F, D]: gate_proj then up_proj, whichever the variant has
  Out gate, up;        // [F, D] halves of gate_up; `stem` has no up, `stem_gate` no gate
  Out down;            // [D, F]
  // A mixture of experts has these in place of gate_up and down.
  Out router;           // [E, D], only in `moe`
  Out experts_gate_up;  // [E·2F', D]: expert e's gate_proj, then up_proj, from row e·2F'
  Out experts_down;     // [E·D, F']: expert e's down_proj from row e·D
};

/// Views of all dense tensors of a model.
struct DenseViews {
  std::vector<LayerTensors> layers;  // [L]
  Out final_norm;                    // [1, D]
  Out head;                          // [V, D]; when tied, also the token embedding
};

/// All dense tensors of one model in one flat buffer: weights, their gradients, Adam's moments and the narrow
/// copy all have this layout, so that an optimizer step is one pass over `flat`.
struct DenseTensors : DenseViews {
  DenseTensors() = default;
  /// Zeroed; tensors that are never written take no memory (Buffer::zeroed).
  DenseTensors(const ModelConfig& config, DType dtype);
  /// Shapes alone, to be compared with a file's before memory is taken: the views lead nowhere.
  static DenseTensors layout(const ModelConfig& config);
  /// Vectors (norms, biases) alone, zeroed; the matrices' views have shapes and lead nowhere, `flat` is null.
  static DenseTensors vectors(const ModelConfig& config, DType dtype);

  Out flat;  // [1, n] everything, padding (always zero) included
  Buffer buffer;

 private:
  std::int64_t lay_out(const ModelConfig& config, DType dtype, char* base, bool vectors_only = false);
};

/// Calls visit(name, view, kind) for every tensor under its Hugging Face name (Llama's; of experts Mixtral's
/// scheme with Llama's projections), in a fixed order.
/// An untied token embedding is not among them: it is row-sparse and lives in Model::embedding.
template <class Visitor>
void for_each_tensor(const ModelConfig& config, const DenseTensors& tensors, Visitor&& visit) {
  const std::int64_t q = config.heads * config.head_width;
  const std::int64_t kv = config.kv_heads * config.head_width;
  const ExpertShape experts = config.expert_shape();
  for (std::size_t l = 0; l < tensors.layers.size(); ++l) {
    const LayerTensors& t = tensors.layers[l];
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    visit(prefix + "input_layernorm.weight", t.attention_norm, TensorKind::norm);
    visit(prefix + "self_attn.q_proj.weight", t.qkv.slice_rows(0, q), TensorKind::matrix_in);
    visit(prefix + "self_attn.k_proj.weight", t.qkv.slice_rows(q, kv), TensorKind::matrix_in);
    visit(prefix + "self_attn.v_proj.weight", t.qkv.slice_rows(q + kv, kv), TensorKind::matrix_in);
    if (t.qkv_bias) {
      visit(prefix + "self_attn.q_proj.bias", t.qkv_bias.slice_cols(0, q), TensorKind::bias);
      visit(prefix + "self_attn.k_proj.bias", t.qkv_bias.slice_cols(q, kv), TensorKind::bias);
      visit(prefix + "self_attn.v_proj.bias", t.qkv_bias.slice_cols(q + kv, kv), TensorKind::bias);
    }
    if (t.q_norm) visit(prefix + "self_attn.q_norm.weight", t.q_norm, TensorKind::norm);
    if (t.k_norm) visit(prefix + "self_attn.k_norm.weight", t.k_norm, TensorKind::norm);
    visit(prefix + "self_attn.o_proj.weight", t.o, TensorKind::matrix_out);
    visit(prefix + "post_attention_layernorm.weight", t.ffn_norm, TensorKind::norm);
    if (t.gate) visit(prefix + "mlp.gate_proj.weight", t.gate, TensorKind::matrix_in);
    if (t.up) visit(prefix + "mlp.up_proj.weight", t.up, TensorKind::matrix_in);
    if (t.down) visit(prefix + "mlp.down_proj.weight", t.down, TensorKind::matrix_out);
    if (t.router) visit(prefix + "mlp.gate.weight", t.router, TensorKind::matrix_in);
    for (std::int64_t e = 0; t.experts_down && e < experts.experts; ++e) {
      const std::string expert = prefix + "mlp.experts." + std::to_string(e) + ".";
      const Out gate_up = t.experts_gate_up.slice_rows(2 * e * experts.width, 2 * experts.width);
      visit(expert + "gate_proj.weight", gate_up.slice_rows(0, experts.width), TensorKind::matrix_in);
      visit(expert + "up_proj.weight", gate_up.slice_rows(experts.width, experts.width),
            TensorKind::matrix_in);
      visit(expert + "down_proj.weight", t.experts_down.slice_rows(e * config.width, config.width),
            TensorKind::matrix_out);
    }
  }
  visit(std::string("model.norm.weight"), tensors.final_norm, TensorKind::norm);
  visit(std::string(config.tied ? "model.embed_tokens.weight" : "lm_head.weight"), tensors.head,
        TensorKind::embedding);
}

/// Which tensors of a model a training leaves as they are.
struct FrozenTensors {
  bool table = false;       ///< the STEM table
  bool embedding = false;   ///< the token embedding, when untied
  std::vector<bool> dense;  ///< one a tensor, in the order of for_each_tensor; empty: none
};

/// Views of `tensors` without what is frozen: null where all that lies in one matrix is (q, k and v; gate and
/// up; a stack of experts), so that half of it frozen leaves the whole. The views `gate` and `up` are null
/// with gate_up.
DenseViews without_frozen(const ModelConfig& config, const DenseTensors& tensors,
                          const FrozenTensors& frozen);

/// Calls visit(view) for every matrix and vector that lies by itself (q, k and v together, gate and up
/// together) and is not null.
template <class Visitor>
void for_each_block(DenseViews& views, Visitor&& visit) {
  const auto if_any = [&](Out& view) {
    if (view) visit(view);
  };
  for (LayerTensors& t : views.layers) {
    for (Out* view : {&t.attention_norm, &t.qkv, &t.qkv_bias, &t.q_norm, &t.k_norm, &t.o, &t.ffn_norm,
                      &t.gate_up, &t.down, &t.router, &t.experts_gate_up, &t.experts_down})
      if_any(*view);
  }
  if_any(views.final_norm);
  if_any(views.head);
}

}  // namespace stem
