// How likely is a text after another? The one place where continuations are scored: facts, swaps, benchmark
// suites.
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

/// A prompt and the answer to look for.
struct ScoreCase {
  std::vector<std::int32_t> prompt;
  std::vector<RecordEdit> edits;
  std::vector<std::int32_t> wanted;  ///< the answer that counts
};

struct ScoreResult {
  bool exact = false;          ///< greedy decoding would give every token of `wanted`
  std::int32_t first = -1;     ///< arg-max after the prompt
  double log_probability = 0;  ///< of `wanted` under teacher forcing, nats: Σ log p(token | those before)
};

struct ScoreOptions {
  bool greedy = true;            ///< decide `exact` and `first`
  bool log_probability = false;  ///< compute it
  std::int64_t tokens_per_batch = 4096;
};

/// Scores cases packed into batches without padding, results in the order of the cases. An exact match is
/// decided by teacher forcing, which for greedy decoding is the same thing: the answer is produced if and
/// only if each of its tokens is the arg-max after the ones before it. Edits of a case come on top of
/// `overlay`.
///
/// With context.inference the results are the same bits however cases are batched, and what neighbouring
/// cases without edits share is computed once: their prompt when it is the same (the choices of one
/// question), the whole pass when the answers differ in the last token alone. Without it the training kernels
/// run: faster for many short prompts, and last bits depend on the batch.
///
/// Throws kUsage when a prompt with its answer is longer than the context.
std::vector<ScoreResult> score_cases(const Context& context, const Model& model,
                                     std::span<const ScoreCase> cases, const Overlay* overlay = nullptr,
                                     const ScoreOptions& options = {});

}  // namespace stem
