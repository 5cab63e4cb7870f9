// The shape of a model, as config.json states it (Llama's keys plus ffn_variant and stem_layers).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/batch.h"
#include "io/json.h"
#include "ops/attention.h"
#include "tables/table.h"

namespace stem {

/// What the FFN of a layer in `stem_layers` computes (stem-spec §1). All other layers are dense.
enum class FfnVariant { dense, stem, stem_gate, stem_additive, hash_moe, moe };

std::string_view name_of(FfnVariant variant);
/// Throws kUsage naming `source` and the known variants.
FfnVariant ffn_variant_from(std::string_view name, std::string_view source);

/// Mixtures of experts (hash_moe and moe). Three counts: E experts, k of them for each token, each an SwiGLU
/// of width F'.
struct ExpertShape {
  std::int64_t experts = 0;  ///< E
  std::int64_t chosen = 0;   ///< k
  std::int64_t width = 0;    ///< F'
};

/// What may be set about experts; a count of 0 is the variant's own: hash_moe 16 experts, 1 for each token,
/// of width F; moe 8 experts, 2 for each token, of width F/2.
struct ExpertOptions {
  std::int64_t experts = 0, chosen = 0, width = 0;  ///< E, k (1 in hash_moe), F'
  double balance_loss = 0.01;                       ///< coefficient of E·Σ f_i P_i, see ops/moe.h (moe)
  double z_loss = 1e-3;                             ///< coefficient of mean(logsumexp²) (moe)
  std::int64_t hash_seed = 1;                       ///< of the map from token to expert (hash_moe)
};

/// Shape letters of stem-spec: D width, F ffn, H heads, K kv_heads, A head width, V vocab, L layers.
struct ModelConfig {
  std::int64_t vocab = 0;        ///< V
  std::int64_t width = 128;      ///< D
  std::int64_t layers = 6;       ///< L
  std::int64_t heads = 4;        ///< H
  std::int64_t kv_heads = 4;     ///< K, divides H
  std::int64_t head_width = 32;  ///< A, even
  std::int64_t ffn = 512;        ///< F
  std::int64_t max_positions = 256;
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool qkv_bias = false;  ///< q, k and v have biases (Qwen2)
  bool qk_norm = false;   ///< heads of q and k are normed before they are rotated (Qwen3)
  bool tied = true;       ///< output head is the token embedding
  FfnVariant variant = FfnVariant::stem;
  std::vector<std::int64_t>
      stem_layers;        ///< where `variant` applies: ascending, distinct, < L; empty only for a dense model
  ExpertOptions experts;  ///< read by hash_moe and moe alone

  bool has_experts() const { return variant == FfnVariant::hash_moe || variant == FfnVariant::moe; }
  /// Whether layers read rows of a STEM table: not when they are dense or mixtures of experts.
  bool has_table() const { return !stem_layers.empty() && !has_experts(); }
  /// S, layers that read a table; 0 without one.
  std::int64_t stem_layer_count() const {
    return has_table() ? static_cast<std::int64_t>(stem_layers.size()) : 0;
  }
  /// Index of layer l among the layers that read the table (0 .. S-1), or -1 when it reads none.
  std::int64_t stem_index(std::int64_t layer) const;
  /// E, k, F' with the variant's own counts filled in; zeros without experts.
  ExpertShape expert_shape() const;
  /// Whether layer l is a mixture of experts.
  bool is_mixture(std::int64_t layer) const;
  /// What layer l computes: `variant` in a layer of `stem_layers`, dense elsewhere.
  FfnVariant ffn_of(std::int64_t layer) const;
  Heads attention_heads() const { return {heads, kv_heads, head_width}; }
  std::int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_width; }
  TableShape table_shape() const { return {vocab, stem_layer_count(), ffn}; }

  /// Throws kUsage, naming `source` and the field, when the shape is impossible: a zero or huge extent, heads
  /// that do not divide D (when head_width is D/H), kv_heads that do not divide heads, an odd head width, a
  /// STEM layer >= L or listed twice, more experts for a token than there are.
  void validate(std::string_view source) const;
};

/// "third" (every third layer from `first` on), "half", "full" (all from `first` on), "all" (layer 0 too),
/// "none", or a list such as "1,4". Models trained as STEM keep layer 0 dense: `first` is 1; conversion and
/// added rows take it. Source: stem-spec §1. Throws kUsage naming `source`, the field, for anything else.
std::vector<std::int64_t> stem_layers_from(std::string_view choice, std::int64_t layers,
                                           std::string_view source, std::int64_t first = 1);

/// The `rope_scaling` of a config.json: null, or rope_type default, linear or llama3 with its numbers. Throws
/// Error naming `source`, the key, what was expected and found.
RopeScaling rope_scaling_from_json(const Json& json, std::string_view source);

/// config.json both ways. `torch_dtype` is the type of the dense weights ("float32" or "bfloat16").
Json config_to_json(const ModelConfig& config, std::string_view torch_dtype);
/// Throws Error naming `source`, the key, what was expected and found.
ModelConfig config_from_json(const Json& json, std::string_view source);

/// Parameters and FLOPs per token (stem-spec §4).
struct Accounting {
  std::int64_t dense_parameters = 0;  ///< everything but the table: embedding and head (once when tied) and
                                      ///< all experts included, no norms
  std::int64_t expert_parameters = 0;  ///< of these, the experts': E·3·D·F' a mixture layer, without routers
  std::int64_t table_parameters = 0;  ///< V·S·F
  std::int64_t active_parameters =
      0;  ///< what one token switches on: dense parameters less the experts not chosen, plus one record
  std::int64_t deleted_parameters = 0;  ///< projections that the variant leaves out, S·D·F
  double flops_per_token = 0;  ///< forward, 2 per weight of every matrix product that a token passes (chosen
                               ///< experts alone), without attention over the context
  double flops_per_token_with_lookup =
      0;  ///< the same, counting the embedding lookup as a product (as the paper prints)
  double saved_share_per_stem_layer = 0;  ///< F / (4D + 2C + 3F), C = max_positions
};
Accounting account(const ModelConfig& config);

}  // namespace stem
