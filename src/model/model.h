// A model in memory: configuration, dense weights, token embedding, STEM table.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "model/config.h"
#include "model/weights.h"
#include "ops/context.h"
#include "tables/table.h"

namespace stem {

/// Element types of one run. Training on a CPU with AMX: {f32, bf16}; elsewhere {f32, f32}; the oracle: {f64,
/// f64}.
struct Precision {
  DType wide = DType::f32;    ///< residual stream, norms, softmax, loss, master weights, gradients
  DType narrow = DType::f32;  ///< GEMM inputs and saved activations
};

/// What the products of one layer read. A mixture of experts has no gate_up and down.
struct LayerWeights {
  Weight qkv;    ///< [(H + 2K)·A, D]; in a served model with qk_norm in two parts instead:
  Weight qk, v;  ///< [(H + K)·A, D], [K·A, D]
  Weight o, gate_up, down;
};

/// The weights of all products in the backend's own form, for inference alone; they take the place of
/// Model::weights' matrices, which then have shapes but no values. Copies share the memory.
struct ServedWeights {
  std::vector<LayerWeights> layers;  // [L]
  Weight head;                       // [V, D]; when tied, also the token embedding
  Weight embedding;                  // [V, D], only when untied
  std::shared_ptr<const void> memory;
  std::size_t bytes = 0;

  explicit operator bool() const { return !layers.empty(); }
};

struct Model {
  ModelConfig config;
  Precision precision;
  DenseTensors weights;                     ///< wide masters; vectors alone when `served`
  DenseTensors compute;                     ///< narrow copy that GEMMs read; empty when narrow == wide
  ServedWeights served;                     ///< for inference, in place of both
  Tensor embedding;                         ///< [V, D] wide, only when untied and not `served`
  Table table;                              ///< [V][S][F]; may be absent
  Tensor cos_sin;                           ///< [max_positions, A] wide, rotary table
  std::vector<std::int32_t> hashed_expert;  ///< [V] expert of each token, only in hash_moe
  std::optional<DType> kv_dtype;            ///< f32, bf16 or i8, when cache_dtype is chosen

  Model() = default;
  /// Allocates everything, zeroed (norms one). `with_table` false leaves the table absent, to be mapped
  /// later.
  Model(const ModelConfig& config, Precision precision, bool with_table = true);
  /// For inference with served weights, to be filled in: f32 vectors, no matrices, no table.
  static Model for_serving(const ModelConfig& config);

  /// The tensors that GEMMs read: `compute`, or `weights` when there is no narrow copy. Not of served models.
  const DenseTensors& gemm_weights() const {
    require(!served, "the plain weights of a served model");
    return precision.narrow == precision.wide ? weights : compute;
  }
  /// What keys and values are rounded to in inference, kept in a cache or not: by default bf16 beside served
  /// weights.
  DType cache_dtype() const { return kv_dtype.value_or(served ? DType::bf16 : precision.wide); }
  LayerWeights layer_weights(std::size_t l) const;
  Weight head_weight() const { return served ? served.head : Weight{gemm_weights().head}; }
  /// The token embedding [V, D] wide. Not of served models.
  In embed_tokens() const {
    require(!served, "the plain embedding of a served model");
    return config.tied ? In(weights.head) : In(embedding.view);
  }
  /// Its served form.
  Weight served_embedding() const { return config.tied ? served.head : served.embedding; }
  /// Refreshes `compute` from `weights` (after loading or an optimizer step that did not).
  void refresh_compute(const Context& ctx);

 private:
  void fill_constants();  // norms one, rotary table, hashed experts
};

/// Draws all weights (stem-spec §1): matrices that read the residual stream truncated normal σ = D^-½,
/// matrices that write to it σ = fan_in^-½/√(2L), cut at 3σ; norms one; embedding and head σ = D^-½; table
/// Xavier normal σ = √(2/(V+F)). A stem_additive table starts at zero. Every tensor has its own random
/// stream: the same for any thread count.
void init_weights(Model& model, std::uint64_t seed);
/// Fills records [n, S·F] with those of tokens first, first + 1, … of this seed's initial table (the control
/// of inspections).
void init_table(Out records, const ModelConfig& config, std::uint64_t seed, std::int64_t first = 0);

}  // namespace stem
