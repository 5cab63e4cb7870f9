// Answers as JSON in the forms of OpenAI's API.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "generate/generation.h"
#include "io/json.h"
#include "text/tokenizer.h"

namespace stem {

/// One answer so far, or what a step added to it.
struct AnswerPart {
  std::int64_t index = 0;  ///< among all choices of the response
  std::vector<ScoredToken> prompt, tokens;
  std::string text;
  FinishReason finish = FinishReason::none;
};

struct TokenUsage {
  std::int64_t prompt = 0, completion = 0, cached = 0;
};
Json usage_json(const TokenUsage& usage);

/// "stop" or "length"; null while an answer goes on.
Json finish_json(FinishReason finish);

/// What stays the same in all parts of one response.
struct ResponseHead {
  std::string id;  ///< "cmpl-…", "chatcmpl-…"
  std::int64_t created = 0;
  std::string model;

  Json json(const char* object) const;
};
ResponseHead new_head(const char* prefix, const std::string& model);

/// {"tokens", "token_logprobs", "top_logprobs", "text_offset"} of a completion. `offset` is the place of the
/// first token in characters, and is moved on. Tokens that are no text of their own read "bytes:\xNN…".
Json completion_logprobs(const Tokenizer& tokenizer, std::span<const ScoredToken> tokens,
                         std::int64_t& offset);

/// A member of `choices`; `offset` null: without logprobs.
Json completion_choice(const Tokenizer& tokenizer, const AnswerPart& part, std::int64_t* offset);

Json chat_logprobs(const Tokenizer& tokenizer, std::span<const ScoredToken> tokens);
/// A member of `choices`: a whole message, or (`delta`) what is new of it; `first` names the role.
Json chat_choice(const Tokenizer& tokenizer, const AnswerPart& part, bool logprobs, bool delta, bool first);

}  // namespace stem
