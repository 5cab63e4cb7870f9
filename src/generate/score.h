// What would the model answer? Greedy exact match of many short prompts at once, each with its own row edits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/forward.h"

namespace stem {

/// One position of a prompt that reads another record: [S·F] f32.
struct RecordEdit {
  std::int64_t position = 0;      ///< within the case's prompt
  const float* record = nullptr;  ///< [S·F]; must outlive the scoring
};

/// A prompt and the answers to look for.
struct ScoreCase {
  std::vector<std::int32_t> prompt;
  std::vector<RecordEdit> edits;
  std::vector<std::int32_t> wanted;  ///< the answer that counts
};

struct ScoreResult {
  bool exact = false;          ///< greedy decoding would give every token of `wanted`
  std::int32_t first = -1;     ///< arg-max after the prompt
  double log_probability = 0;  ///< of `wanted` under teacher forcing, nats; only when asked for
};

/// Scores cases in batches with the training kernels. An exact match is decided by teacher forcing, which for
/// greedy decoding is the same thing: the answer is produced if and only if each of its tokens is the arg-max
/// after the ones before it. Edits of a case come on top of `overlay`. Prompts longer than the context are
/// kUsage.
std::vector<ScoreResult> score_cases(const Context& context, const Model& model,
                                     std::span<const ScoreCase> cases, const Overlay* overlay = nullptr,
                                     bool with_log_probability = false, std::int64_t tokens_per_batch = 4096);

}  // namespace stem
