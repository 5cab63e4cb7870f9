// What a training run would take: parameters, arithmetic, memory, hours. Everything but the machine's rates
// follows from the settings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/runtime.h"
#include "apps/settings.h"

namespace stem {

/// Bytes of one kind that training holds at its peak.
struct MemoryPart {
  std::string key;   ///< in JSON: "dense_weights"
  std::string name;  ///< for people: "dense weights, f32"
  double bytes = 0;
};

struct TrainPlan {
  Accounting account;
  /// Attention's own products (scores and weighted sum, 4·H·A a key), forward, per token: mean over a causal
  /// sequence of train.sequence tokens, and of a token that sees as many keys.
  double attention_flops_mean = 0, attention_flops_full = 0;
  double expected_distinct = 0;  ///< R of a batch, by expected_distinct_tokens
  std::vector<MemoryPart> memory;
  double memory_bytes = 0;       ///< their sum
  double table_token_bytes = 0;  ///< a record in bf16, what serving reads for each token: S·F·2
  double optimizer_bytes = 0;    ///< memory traffic of one update
  double teacher_flops = 0;      ///< a teacher's forward, per token
  double tokens = 0;             ///< of the whole run

  /// 3 × forward, without the embedding lookup: every product once more for each of its two gradients (those
  /// of frozen weights, which are left out, included); and the teacher's forward.
  double training_flops() const { return 3.0 * account.flops_per_token + teacher_flops; }
  double training_flops_with_lookup() const {
    return 3.0 * account.flops_per_token_with_lookup + teacher_flops;
  }
};

/// Distinct tokens among `n` drawn independently by Zipf's law with exponent 1.1 from `vocab`: Σ 1 − (1 −
/// p_r)ⁿ. (2,048 tokens of English with a vocabulary of 8,192 held 685 and 753; this says 681.)
double expected_distinct_tokens(std::int64_t vocab, std::int64_t n);

/// The shape of train.teacher's model, by its config.json; none without a teacher. Throws Error naming the
/// file.
std::optional<ModelConfig> teacher_config(const Settings& settings);

/// `tokens` 0: train.steps × train.tokens_per_step. `config` is settings.resolve_model(vocab), `teacher` that
/// of train.teacher, null without one. Throws kUsage naming train.freeze.
TrainPlan plan_training(const Settings& settings, const ModelConfig& config, Precision precision,
                        double tokens = 0, const ModelConfig* teacher = nullptr);

/// Sustained rates of this machine, at the model's shapes.
struct MachineRates {
  struct Shape {
    std::string name;
    std::int64_t rows = 0, in = 0, out = 0;  ///< y [rows, out] = x [rows, in] · wᵀ, and both gradients
    double share = 0;                        ///< of the model's products
    double flops_per_s = 0;
  };
  std::vector<Shape> shapes;
  double gemm_flops_per_s = 0;  ///< all of them together, as the model weighs them
  double bytes_per_s = 0;       ///< memory read and written by a stream
};
/// Runs the model's products, forward and both gradients, for about a second. Rows and the vocabulary are cut
/// where the shape itself would take longer; the rates hold for the full ones.
MachineRates measure_machine(Runtime& runtime, const ModelConfig& config, Precision precision,
                             std::int64_t tokens_per_step);

/// Seconds of a step: products at the measured rate, taken as `gemm_share` of all that is not the update, and
/// the update at the memory's speed.
struct StepTime {
  double products = 0, other = 0, update = 0;
  double total() const { return products + other + update; }
};
StepTime step_time(const TrainPlan& plan, const MachineRates& rates, std::int64_t tokens_per_step,
                   double gemm_share);

/// "1000", "2.5M", "100B", "1T", "1e9" -> tokens. Throws kUsage naming `option`.
double count_from_text(std::string_view text, std::string_view option);

}  // namespace stem
