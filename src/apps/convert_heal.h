// Healing: what a converted model learns from the model that it was made of.
#pragma once

#include <filesystem>
#include <span>

#include "apps/runtime.h"
#include "model/config.h"

namespace stem {

struct HealSettings {
  std::int64_t tokens = 0;  ///< to train on; 0: no healing
  double lr = 3e-4;         ///< of W_g and W_d of the converted layers
  double row_lr = 0.03;     ///< of the rows, in root mean squares of the table
};

/// Throws kMismatch unless `teacher` has the model's vocabulary and tokenizer, and a context of `sequence`
/// tokens.
void check_teacher(const std::filesystem::path& model, const std::filesystem::path& teacher,
                   std::int64_t sequence);

/// Distils the model `converted` from `teacher` by the one trainer: KL(teacher ‖ model) over `text`, whole
/// sequences of T tokens with their start tokens, each read as two. Only the rows, W_g and W_d of the
/// converted layers learn. The healed model comes to `out`, its run (metrics, checkpoints) beside it; a run
/// that was begun goes on. `row_rms`: root mean square of the table's values. Throws Interrupted.
void heal(Runtime& runtime, const std::filesystem::path& converted, const std::filesystem::path& teacher,
          const std::filesystem::path& out, std::span<const std::int32_t> text, std::int64_t sequence,
          double row_rms, const HealSettings& settings, bool quiet);

}  // namespace stem
