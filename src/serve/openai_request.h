// Requests of OpenAI's API as they come, JSON, and as the engine takes them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "generate/chat_prompt.h"
#include "generate/generation.h"
#include "io/json.h"

namespace stem {

/// What bounds a request's fields.
struct RequestLimits {
  std::size_t body_bytes = 8u << 20;
  std::int64_t vocab = 0;
  std::int64_t answers = 256;  ///< prompts times n
};

inline constexpr std::int64_t kMaxLogprobs = 20;
inline constexpr std::size_t kMaxStops = 16, kMaxStopBytes = 1024;

/// What completions and chat share. `generation` has everything but the prompt and what the tokenizer
/// decides.
struct CommonRequest {
  std::string model;
  GenerationRequest generation;
  std::optional<std::int64_t> max_tokens;
  bool stream = false, include_usage = false;
  bool ignore_eos = false;
  /// The schema of the answer; an empty object for any JSON object; nothing for text.
  std::optional<Json> schema;
};

/// POST /v1/completions.
struct CompletionRequest : CommonRequest {
  std::vector<std::variant<std::string, std::vector<std::int32_t>>> prompts;  ///< texts or ids
  bool echo = false;
  bool add_special_tokens = true;  ///< a text gets the start token in front
};

/// POST /v1/chat/completions.
struct ChatRequest : CommonRequest {
  std::vector<ChatTurn> turns;
  bool logprobs = false;
};

/// Reads a body. Throws ApiError (400) naming the field for wrong JSON, wrong types, values out of range, and
/// for fields whose effect is not to be had here; unknown fields are ignored.
CompletionRequest parse_completion(std::string_view body, const RequestLimits& limits);
ChatRequest parse_chat(std::string_view body, const RequestLimits& limits);

/// A JSON object from a body, with the limits of requests.
Json parse_body(std::string_view body, const RequestLimits& limits);

/// The messages of a chat: role and content, a text or a list of {"type": "text"} parts.
std::vector<ChatTurn> parse_messages(const Json& body);

}  // namespace stem
