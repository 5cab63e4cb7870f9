// A model and a text for the tests of conversion and calibration.
#pragma once

#include <utility>
#include <vector>

#include "convert/calibration_text.h"
#include "core/rng.h"
#include "model/config.h"

namespace stem {

inline constexpr std::int64_t kTestSequence = 16;

/// Three layers, a vocabulary of 19.
inline ModelConfig random_text_config(FfnVariant variant) {
  ModelConfig c;
  c.vocab = 19;
  c.width = 24;
  c.layers = 3;
  c.heads = c.kv_heads = 2;
  c.head_width = 12;
  c.ffn = 40;
  c.max_positions = kTestSequence;
  c.variant = variant;
  if (variant != FfnVariant::dense) c.stem_layers = {0, 2};
  return c;
}

/// Sequences of kTestSequence tokens that begin with token 0; token 18 never occurs.
inline CalibrationText random_text(Rng& rng, std::int64_t sequences, std::int64_t per_batch) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t n = 0; n < sequences * kTestSequence; ++n)
    tokens.push_back(n % kTestSequence == 0 ? 0 : static_cast<std::int32_t>(1 + rng.below(17)));
  return {std::move(tokens), kTestSequence, per_batch};
}

}  // namespace stem
