// The shape of a model, as config.json states it (Llama's keys plus ffn_variant and stem_layers).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/batch.h"
#include "io/json.h"
#include "tables/table.h"

namespace stem {

/// What the FFN of a STEM layer computes (stem-spec §1). Layers outside `stem_layers` are always dense.
enum class FfnVariant { dense, stem, stem_gate, stem_additive };

std::string_view name_of(FfnVariant variant);
/// Throws kUsage naming the known variants.
FfnVariant ffn_variant_from(std::string_view name);

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
  bool tied = true;  ///< output head is the token embedding
  FfnVariant variant = FfnVariant::stem;
  std::vector<std::int64_t> stem_layers;  ///< ascending, distinct, < L; empty only for a dense model

  std::int64_t stem_layer_count() const { return static_cast<std::int64_t>(stem_layers.size()); }
  /// Index of layer l among the STEM layers (0 .. S-1), or -1 when it is dense.
  std::int64_t stem_index(std::int64_t layer) const;
  /// What layer l computes: `variant` in a STEM layer, dense elsewhere.
  FfnVariant ffn_of(std::int64_t layer) const;
  Heads attention_heads() const { return {heads, kv_heads, head_width}; }
  std::int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_width; }
  TableShape table_shape() const { return {vocab, stem_layer_count(), ffn}; }

  /// Throws kUsage, naming `source` and the field, when the shape is impossible: a zero or huge extent, heads
  /// that do not divide D (when head_width is D/H), kv_heads that do not divide heads, an odd head width, a
  /// STEM layer >= L or listed twice.
  void validate(std::string_view source) const;
};

/// "third" (layers 1, 4, 7, …), "half" (1, 3, 5, …), "full" (all but layer 0), "none", or a list such as
/// "1,4". Source: stem-spec §1. Throws kUsage naming `source` and the field for anything else.
std::vector<std::int64_t> stem_layers_from(std::string_view choice, std::int64_t layers,
                                           std::string_view source);

/// config.json both ways. `torch_dtype` is the type of the dense weights ("float32" or "bfloat16").
Json config_to_json(const ModelConfig& config, std::string_view torch_dtype);
/// Throws Error naming `source`, the key, what was expected and found.
ModelConfig config_from_json(const Json& json, std::string_view source);

/// Parameters and FLOPs per token (stem-spec §4).
struct Accounting {
  std::int64_t dense_parameters =
      0;  ///< everything but the table, embedding and head included (once when tied), no norms
  std::int64_t table_parameters = 0;    ///< V·S·F
  std::int64_t active_parameters = 0;   ///< dense parameters plus one record (what one token switches on)
  std::int64_t deleted_parameters = 0;  ///< projections that the variant leaves out, S·D·F
  double flops_per_token =
      0;  ///< forward, 2 per weight of every matrix product, without attention over the context
  double flops_per_token_with_lookup =
      0;  ///< the same, counting the embedding lookup as a product (as the paper prints)
  double saved_share_per_stem_layer = 0;  ///< F / (4D + 2C + 3F), C = max_positions
};
Accounting account(const ModelConfig& config);

}  // namespace stem
