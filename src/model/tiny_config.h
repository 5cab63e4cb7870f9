// A model for tests: the smallest that has every part.
#pragma once

#include "model/config.h"

namespace stem {

/// Four layers of 32 dimensions, two queries a key, a vocabulary of 23; layers 1 and 3 read rows, unless
/// `variant` is dense.
inline ModelConfig tiny_config(FfnVariant variant) {
  ModelConfig c;
  c.vocab = 23;
  c.width = 32;
  c.layers = 4;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_width = 8;
  c.ffn = 48;
  c.max_positions = 16;
  c.variant = variant;
  if (variant != FfnVariant::dense) c.stem_layers = {1, 3};
  return c;
}

}  // namespace stem
