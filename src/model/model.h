// A model in memory: configuration, dense weights, token embedding, STEM table.
#pragma once

#include <cstdint>
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

struct Model {
  ModelConfig config;
  Precision precision;
  DenseTensors weights;                     ///< wide masters
  DenseTensors compute;                     ///< narrow copy that GEMMs read; empty when narrow == wide
  Tensor embedding;                         ///< [V, D] wide, only when untied
  Table table;                              ///< [V][S][F]; may be absent
  Tensor cos_sin;                           ///< [max_positions, A] wide, rotary table
  std::vector<std::int32_t> hashed_expert;  ///< [V] expert of each token, only in hash_moe

  Model() = default;
  /// Allocates everything, zeroed (norms one). `with_table` false leaves the table absent, to be mapped
  /// later.
  Model(const ModelConfig& config, Precision precision, bool with_table = true);

  /// The tensors that GEMMs read: `compute`, or `weights` when there is no narrow copy.
  const DenseTensors& gemm_weights() const { return precision.narrow == precision.wide ? weights : compute; }
  /// The token embedding [V, D] wide.
  In embed_tokens() const { return config.tied ? In(weights.head) : In(embedding.view); }
  /// Refreshes `compute` from `weights` (after loading or an optimizer step that did not).
  void refresh_compute(const Context& ctx);
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
