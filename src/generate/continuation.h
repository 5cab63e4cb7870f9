// A context and a continuation as tokens, and what their scores come to: the rules of lm-evaluation-harness.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "generate/score.h"
#include "text/tokenizer.h"

namespace stem {

/// A case to score, and how many tokens were cut from the front of its prompt because they did not fit.
struct Continuation {
  ScoreCase score;
  std::int64_t cut = 0;
};

/// Tokens of `continuation` behind `context`:
///   white space at the end of the context moves to the front of the continuation;
///   wanted = encode(context + continuation) without its first |encode(context)| tokens;
///   prompt = end-of-text token, as documents were trained, then encode(context).
/// When prompt and answer but its last token exceed `max_positions`, the prompt loses tokens at its front.
/// Where the boundary leaves the continuation no token of its own, the two are encoded apart. Special tokens
/// written in the texts are text. Throws kUsage when the continuation alone fills the context, kMismatch when
/// the context is empty and the tokenizer has no end-of-text token.
Continuation encode_continuation(const Tokenizer& tokenizer, std::string_view context,
                                 std::string_view continuation, std::int64_t max_positions);

/// The end-of-text token, if there is one, and the text, as documents were trained. Special tokens written in
/// it are text.
std::vector<std::int32_t> text_tokens(const Tokenizer& tokenizer, std::string_view text);

/// text_tokens: a prompt of at most `room` tokens, cut at its front.
struct Prompt {
  std::vector<std::int32_t> tokens;
  std::int64_t cut = 0;
};
Prompt encode_prompt(const Tokenizer& tokenizer, std::string_view text, std::int64_t room);

/// Index of the largest log probability, each divided by its length if `lengths` is not empty; the first of
/// equals.
std::size_t likeliest(std::span<const double> log_probabilities, std::span<const double> lengths = {});

/// Mean of `values` and its standard error: sample standard deviation / √n, 0 for fewer than two.
struct Estimate {
  double value = 0.0, standard_error = 0.0;
};
Estimate mean_of(std::span<const double> values);

}  // namespace stem
