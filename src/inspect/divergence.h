// How far one model's predictions are from another's: what quantising or converting a model cost.
#pragma once

#include <cstdint>
#include <span>

#include "model/forward.h"

namespace stem {

/// Means over the scored positions, in nats.
struct Divergence {
  std::int64_t positions = 0;
  double loss = 0, base_loss = 0;  ///< −log p of the next token, under the model and under the base
  double kl = 0;                   ///< KL(base ‖ model) of the next-token distributions
  double kl_deviation = 0;         ///< standard error of that mean
  double kl_top = 0;               ///< largest of a position
  double same_top = 0;             ///< share of positions where both find the same token likeliest

  double perplexity() const;
  double base_perplexity() const;
};

/// Runs both models over `tokens` in inference, cut into sequences of `sequence` tokens that know nothing of
/// each other. Every position but a sequence's last is scored. Both must have one vocabulary (kMismatch).
Divergence compare_predictions(const Context& context, const Model& base, const Model& model,
                               std::span<const std::int32_t> tokens, std::int64_t sequence);

}  // namespace stem
