#include "generate/continuation.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "text/utf8.h"

namespace stem {
namespace {

// What Python's str.rstrip takes for white space.
bool is_space(char32_t c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

// Bytes of `text` without white space at its end.
std::size_t stripped_size(std::string_view text) {
  std::size_t size = text.size();
  while (size > 0) {
    std::size_t start = size - 1;
    while (start > 0 && size - start < 4 && (static_cast<unsigned char>(text[start]) & 0xC0u) == 0x80u)
      --start;
    const Utf8Step step = utf8_step(text.substr(start, size - start));
    if (step.kind != Utf8Step::Kind::kCharacter || step.length != size - start || !is_space(step.code)) break;
    size = start;
  }
  return size;
}

// Removes tokens from the front until `room` are left; returns how many.
std::int64_t cut_front(std::vector<std::int32_t>& tokens, std::int64_t room) {
  const std::int64_t cut = std::max<std::int64_t>(0, static_cast<std::int64_t>(tokens.size()) - room);
  tokens.erase(tokens.begin(), tokens.begin() + cut);
  return cut;
}

}  // namespace

Continuation encode_continuation(const Tokenizer& tokenizer, std::string_view context,
                                 std::string_view continuation, std::int64_t max_positions) {
  const std::size_t kept = stripped_size(context);
  const std::string moved = std::string(context.substr(kept)) + std::string(continuation);
  const std::string_view before = context.substr(0, kept);

  Continuation made;
  ScoreCase& c = made.score;
  const std::vector<std::int32_t> front = tokenizer.encode(before, false);
  c.wanted = tokenizer.encode(std::string(before) + moved, false);
  if (c.wanted.size() > front.size()) {
    c.wanted.erase(c.wanted.begin(), c.wanted.begin() + static_cast<std::ptrdiff_t>(front.size()));
  } else {
    c.wanted = tokenizer.encode(moved, false);
  }
  if (const auto start = tokenizer.start_id()) c.prompt.push_back(*start);
  c.prompt.insert(c.prompt.end(), front.begin(), front.end());
  if (c.prompt.empty()) {
    fail(ErrorCode::kMismatch,
         "tokenizer.json: expected an end-of-text token to stand before an answer without a context, found "
         "none");
  }
  const std::int64_t room = max_positions - static_cast<std::int64_t>(c.wanted.size()) + 1;
  if (room < 1 || c.wanted.empty()) {
    fail(ErrorCode::kUsage, "an answer: expected 1 to {} tokens (max_position_embeddings), found {}",
         max_positions, c.wanted.size());
  }
  made.cut = cut_front(c.prompt, room);
  return made;
}

std::vector<std::int32_t> text_tokens(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int32_t> tokens = tokenizer.encode(text, false);
  if (const auto start = tokenizer.start_id()) tokens.insert(tokens.begin(), *start);
  return tokens;
}

Prompt encode_prompt(const Tokenizer& tokenizer, std::string_view text, std::int64_t room) {
  Prompt prompt{text_tokens(tokenizer, text)};
  if (prompt.tokens.empty()) fail(ErrorCode::kUsage, "the prompt: expected a text, found none");
  prompt.cut = cut_front(prompt.tokens, room);
  return prompt;
}

std::size_t likeliest(std::span<const double> log_probabilities, std::span<const double> lengths) {
  std::size_t best = 0;
  const auto value = [&](std::size_t i) {
    return log_probabilities[i] / (lengths.empty() ? 1.0 : lengths[i]);
  };
  for (std::size_t i = 1; i < log_probabilities.size(); ++i) {
    if (value(i) > value(best)) best = i;
  }
  return best;
}

Estimate mean_of(std::span<const double> values) {
  Estimate e;
  const auto n = static_cast<double>(values.size());
  if (values.empty()) return e;
  for (const double v : values) e.value += v;
  e.value /= n;
  if (values.size() < 2) return e;
  double squares = 0.0;
  for (const double v : values) squares += (v - e.value) * (v - e.value);
  e.standard_error = std::sqrt(squares / (n - 1.0) / n);
  return e;
}

}  // namespace stem
