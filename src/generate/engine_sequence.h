// What the engine knows of one answer under way. Private to engine.cc and engine_step.cc.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "generate/engine.h"
#include "generate/text_stream.h"

namespace stem {

/// One answer: its tokens, of which the first `filled` have keys and values in the cache.
struct Engine::Sequence {
  Sequence(std::shared_ptr<Generation> of, std::int64_t index, const Tokenizer& tokenizer,
           std::int64_t most_tokens);

  const GenerationRequest& request() const { return generation->request(); }
  std::int64_t pending() const { return std::ssize(tokens) - filled; }
  bool reading() const { return filled < prompt_size; }
  bool done() const { return event.finish != FinishReason::none; }
  /// Rows of the cache that it needs: its last token needs none.
  std::int64_t rows() const { return prompt_size + std::max<std::int64_t>(limit, 1) - 1; }
  bool wants_prompt_scores() const { return request().prompt_logprobs && choice == 0; }

  std::shared_ptr<Generation> generation;
  std::int64_t choice;
  std::vector<std::int32_t> tokens;  // prompt, then answer
  std::int64_t prompt_size;
  std::int64_t limit;  // most tokens of the answer
  std::int64_t filled = 0, made = 0;
  KvRanges::Place place;
  bool placed = false;
  Sampler sampler;
  TextStream text;
  std::unique_ptr<TokenConstraint> constraint;
  GenerationEvent event;   // of the step in hand
  Clock::time_point last;  // when tokens were given out
};

/// A sequence's share of one pass: its tokens [from, from + count), and guesses behind them.
struct Engine::Part {
  Sequence* sequence = nullptr;
  std::int64_t from = 0, count = 0;
  std::vector<std::int32_t> guesses;
  bool wrong_guess = false;

  std::int64_t size() const { return count + std::ssize(guesses); }
  bool ends_tokens() const { return from + count == std::ssize(sequence->tokens); }
};

/// A row of a pass whose logits are needed: those after the token at `position`.
struct Engine::Wanted {
  Part* part = nullptr;
  std::int64_t row = 0, position = 0;
};

}  // namespace stem
