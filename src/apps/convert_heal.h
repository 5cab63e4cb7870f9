// Healing: what a converted model learns from the model that it was made of.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "apps/runtime.h"
#include "convert/first_state.h"
#include "model/config.h"

namespace stem {

/// What healing trains besides the rows.
enum class HealScope {
  all,  ///< every weight but the embedding and the output head
  ffn,  ///< W_g and W_d of the converted layers
};

struct HealSettings {
  std::int64_t tokens = 0;  ///< to train on; 0: no healing
  HealScope scope = HealScope::all;
  double lr = 0;         ///< of the weights; the command chooses by what was refitted
  double row_lr = 0.02;  ///< of the rows, in root mean squares of the table
};

std::string_view name_of(HealScope scope);

/// Throws kMismatch unless `teacher` has the model's vocabulary and tokenizer, and a context of `sequence`
/// tokens.
void check_teacher(const std::filesystem::path& model, const std::filesystem::path& teacher,
                   std::int64_t sequence);

/// Distils the model `converted` from `teacher` by the one trainer: KL(teacher ‖ model) over `text`, whole
/// sequences of T tokens with their start tokens, each read as two. The healed model comes to `out`, its run
/// (metrics, checkpoints) beside it; a run that was begun goes on. `row_rms`: root mean square of the table's
/// values. `first`, where sequences have a start token: its states, restored after every step. Throws
/// Interrupted.
void heal(Runtime& runtime, const std::filesystem::path& converted, const std::filesystem::path& teacher,
          const std::filesystem::path& out, std::span<const std::int32_t> text, std::int64_t sequence,
          double row_rms, const FirstState* first, const HealSettings& settings, bool quiet);

}  // namespace stem
