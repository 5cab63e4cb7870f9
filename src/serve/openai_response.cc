#include "serve/openai_response.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>

#include "text/utf8.h"

namespace stem {
namespace {

std::string bytes_of(const Tokenizer& tokenizer, std::int32_t token) {
  return tokenizer.has_token(token) ? tokenizer.token_bytes(token) : std::string();
}

// A token as text; what is no UTF-8 of its own byte by byte, as OpenAI writes it, so that names differ.
std::string token_name(const Tokenizer& tokenizer, std::int32_t token) {
  const std::string bytes = bytes_of(tokenizer, token);
  if (utf8_valid_prefix(bytes) == bytes.size()) return bytes;
  std::string name = "bytes:";
  for (const char c : bytes) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return name;
}

// JSON has no infinity; clients take a very small number for it.
double finite(double log_probability) {
  return std::max(log_probability, -9999.0);
}

std::int64_t characters(const std::string& bytes) {
  return std::count_if(bytes.begin(), bytes.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; });
}

Json scored_name(const Tokenizer& tokenizer, std::int32_t token, double log_probability) {
  Json bytes = Json::array();
  for (const char c : bytes_of(tokenizer, token)) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token_name(tokenizer, token)}, {"logprob", finite(log_probability)}, {"bytes", bytes}};
}

}  // namespace

Json usage_json(const TokenUsage& usage) {
  return {{"prompt_tokens", usage.prompt},
          {"completion_tokens", usage.completion},
          {"total_tokens", usage.prompt + usage.completion},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached}}}};
}

Json finish_json(FinishReason finish) {
  if (finish == FinishReason::none) return {};
  return finish == FinishReason::stop ? "stop" : "length";
}

Json ResponseHead::json(const char* object) const {
  return {{"id", id}, {"object", object}, {"created", created}, {"model", model}};
}

ResponseHead new_head(const char* prefix, const std::string& model) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return {fmt::format("{}-{:016x}{:016x}", prefix, random(), random()),
          static_cast<std::int64_t>(std::time(nullptr)), model};
}

Json completion_logprobs(const Tokenizer& tokenizer, std::span<const ScoredToken> tokens,
                         std::int64_t& offset) {
  Json names = Json::array(), scores = Json::array(), tops = Json::array(), offsets = Json::array();
  for (const ScoredToken& s : tokens) {
    names.push_back(token_name(tokenizer, s.token));
    offsets.push_back(offset);
    offset += characters(bytes_of(tokenizer, s.token));
    if (std::isnan(s.log_probability)) {
      scores.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    scores.push_back(finite(s.log_probability));
    Json top = Json::object();
    for (const TokenScore& t : s.top) top.emplace(token_name(tokenizer, t.token), finite(t.log_probability));
    top.emplace(token_name(tokenizer, s.token),
                finite(s.log_probability));  // the chosen one, if not among them
    tops.push_back(std::move(top));
  }
  return {{"tokens", names}, {"token_logprobs", scores}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

Json completion_choice(const Tokenizer& tokenizer, const AnswerPart& part, std::int64_t* offset) {
  Json logprobs;
  if (offset != nullptr) {
    std::vector<ScoredToken> all = part.prompt;
    all.insert(all.end(), part.tokens.begin(), part.tokens.end());
    logprobs = completion_logprobs(tokenizer, all, *offset);
  }
  return {{"index", part.index},
          {"text", part.text},
          {"logprobs", std::move(logprobs)},
          {"finish_reason", finish_json(part.finish)}};
}

Json chat_logprobs(const Tokenizer& tokenizer, std::span<const ScoredToken> tokens) {
  Json content = Json::array();
  for (const ScoredToken& s : tokens) {
    Json entry = scored_name(tokenizer, s.token, s.log_probability);
    Json top = Json::array();
    for (const TokenScore& t : s.top) top.push_back(scored_name(tokenizer, t.token, t.log_probability));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

Json chat_choice(const Tokenizer& tokenizer, const AnswerPart& part, bool logprobs, bool delta, bool first) {
  Json message = Json::object();
  if (first) message["role"] = "assistant";
  if (!delta || first || !part.text.empty()) message["content"] = part.text;
  return {{"index", part.index},
          {delta ? "delta" : "message", std::move(message)},
          {"logprobs", logprobs ? chat_logprobs(tokenizer, part.tokens) : Json()},
          {"finish_reason", finish_json(part.finish)}};
}

}  // namespace stem
