#include "serve/openai_request.h"

#include <charconv>
#include <random>

#include "serve/api_error.h"

namespace stem {
namespace {

constexpr const char* kName = "request";
constexpr std::int64_t kMaxTokens = 1 << 24;

[[noreturn]] void refuse(const std::string& param, const std::string& message) {
  throw ApiError(400, fmt::format("{}: {}: {}", kName, param, message), param);
}

// Whether a field is there and means something: null, false, empty lists and objects mean nothing.
bool asks_for(const Json& body, std::string_view key) {
  const Json* const field = find_field(body, key, kName);
  return field != nullptr && *field != Json(false) && !(field->is_structured() && field->empty());
}

void refuse_unsupported(const Json& body, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (asks_for(body, key)) refuse(key, "this server does not support it");
  }
}

std::uint64_t read_seed(const Json& body) {
  if (find_field(body, "seed", kName) != nullptr)
    return static_cast<std::uint64_t>(get_int(body, "seed", kName));
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

std::vector<std::string> read_stops(const Json& body) {
  const Json* const field = find_field(body, "stop", kName);
  if (field == nullptr) return {};
  const Json list = field->is_array() ? *field : Json::array({*field});
  if (list.size() > kMaxStops)
    refuse("stop", fmt::format("expected at most {} texts, found {}", kMaxStops, list.size()));
  std::vector<std::string> stops;
  for (const Json& stop : list) {
    if (!stop.is_string()) refuse("stop", "expected a text or a list of texts, found " + shown(stop));
    stops.push_back(stop.get<std::string>());
    const std::size_t bytes = stops.back().size();
    if (bytes == 0 || bytes > kMaxStopBytes)
      refuse("stop", fmt::format("expected texts of 1 to {} bytes, found {}", kMaxStopBytes,
                                 bytes == 0 ? "an empty one" : fmt::format("one of {} bytes", bytes)));
  }
  return stops;
}

std::vector<std::pair<std::int32_t, float>> read_bias(const Json& body, std::int64_t vocab) {
  std::vector<std::pair<std::int32_t, float>> biases;
  const Json* const field = find_field(body, "logit_bias", kName);
  if (field == nullptr) return biases;
  for (const auto& [key, value] : get_object(body, "logit_bias", kName, 1024).items()) {
    std::int32_t token = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0 || token >= vocab)
      refuse("logit_bias", fmt::format("expected token ids in [0, {}) as keys, found {}", vocab, shown(key)));
    if (!value.is_number() || value.get<double>() < -100.0 || value.get<double>() > 100.0)
      refuse("logit_bias", "expected numbers in [-100, 100], found " + shown(value));
    biases.emplace_back(token, value.get<float>());
  }
  return biases;
}

SamplingOptions read_sampling(const Json& body, std::int64_t vocab) {
  SamplingOptions o;
  o.temperature = get_number_or(body, "temperature", kName, 0.0, 100.0, 1.0);
  o.top_k = std::max<std::int64_t>(0, get_int_or(body, "top_k", kName, -1, vocab, 0));  // −1: all, too
  o.top_p = get_number_or(body, "top_p", kName, 0.0, 1.0, 1.0);
  if (o.top_p == 0.0) {  // the likeliest alone
    o.top_k = 1;
    o.top_p = 1.0;
  }
  o.min_p = get_number_or(body, "min_p", kName, 0.0, 1.0, 0.0);
  o.repetition_penalty = get_number_or(body, "repetition_penalty", kName, 0.01, 100.0, 1.0);
  o.presence_penalty = get_number_or(body, "presence_penalty", kName, -2.0, 2.0, 0.0);
  o.frequency_penalty = get_number_or(body, "frequency_penalty", kName, -2.0, 2.0, 0.0);
  o.logit_bias = read_bias(body, vocab);
  o.seed = read_seed(body);
  if (find_field(body, "stop_token_ids", kName) != nullptr) {
    for (const std::int64_t id : get_ints(body, "stop_token_ids", kName, 0, vocab - 1, 64))
      o.stop_tokens.push_back(static_cast<std::int32_t>(id));
  }
  return o;
}

std::optional<Json> read_schema(const Json& body) {
  const Json* const field = find_field(body, "response_format", kName);
  if (field == nullptr) return std::nullopt;
  const std::string type = get_string(*field, "type", "request: response_format");
  if (type == "text") return std::nullopt;
  if (type == "json_object") return Json::object();
  if (type != "json_schema")
    refuse("response_format", "type: expected text, json_object or json_schema, found " + shown(type));
  const Json& named = get_object(*field, "json_schema", "request: response_format");
  return get_object(named, "schema", "request: response_format: json_schema");
}

void read_common(const Json& body, const RequestLimits& limits, CommonRequest& r) {
  r.model = get_string_or(body, "model", kName, "", 4096);
  r.generation.sampling = read_sampling(body, limits.vocab);
  r.generation.stop = read_stops(body);
  r.generation.choices = get_int_or(body, "n", kName, 1, 128, 1);
  r.stream = get_bool_or(body, "stream", kName, false);
  r.ignore_eos = get_bool_or(body, "ignore_eos", kName, false);
  r.schema = read_schema(body);
  r.generation.skip_special = get_bool_or(body, "skip_special_tokens", kName, true);
  if (find_field(body, "stream_options", kName) != nullptr) {
    if (!r.stream) refuse("stream_options", "expected stream to be true with it");
    r.include_usage = get_bool_or(get_object(body, "stream_options", kName), "include_usage", kName, false);
  }
}

std::optional<std::int64_t> read_max_tokens(const Json& body, const char* key, std::int64_t least) {
  if (find_field(body, key, kName) == nullptr) return std::nullopt;
  return get_int(body, key, kName, least, kMaxTokens);
}

std::vector<std::int32_t> read_ids(const Json& list, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= vocab)
      refuse("prompt", fmt::format("expected token ids in [0, {}), found {}", vocab, shown(id)));
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

// A text, a list of texts, a list of ids, or a list of lists of ids.
void read_prompts(const Json& body, const RequestLimits& limits, CompletionRequest& r) {
  const Json* const field = find_field(body, "prompt", kName);
  if (field == nullptr) refuse("prompt", "expected a text, a list of texts or of token ids, found none");
  if (field->is_string()) {
    r.prompts.emplace_back(field->get<std::string>());
  } else if (field->is_array() && !field->empty() && field->front().is_number()) {
    r.prompts.emplace_back(read_ids(*field, limits.vocab));
  } else if (field->is_array() && !field->empty()) {
    for (const Json& prompt : *field) {
      if (prompt.is_string())
        r.prompts.emplace_back(prompt.get<std::string>());
      else if (prompt.is_array())
        r.prompts.emplace_back(read_ids(prompt, limits.vocab));
      else
        refuse("prompt", "expected texts or lists of token ids, found " + shown(prompt));
    }
  } else {
    refuse("prompt", "expected a text, a list of texts or of token ids, found " + shown(*field));
  }
  const auto answers = std::ssize(r.prompts) * r.generation.choices;
  if (answers > limits.answers)
    refuse("prompt",
           fmt::format("expected at most {} answers (prompts times n), found {}", limits.answers, answers));
}

std::string read_content(const Json& message) {
  const Json* const content = find_field(message, "content", "request: messages");
  if (content == nullptr) return {};
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) refuse("messages", "content: expected a text, found " + shown(*content));
  std::string text;
  for (const Json& part : *content) {
    const bool is_text = part.is_object() && part.contains("text") && part["text"].is_string() &&
                         (!part.contains("type") || part["type"] == "text");
    if (!is_text) refuse("messages", "content: expected parts of type text, found " + shown(part));
    text += part["text"].get<std::string>();
  }
  return text;
}

// What the readers of JSON throw names the field already.
template <class Read>
auto as_api_error(const Read& read) {
  try {
    return read();
  } catch (const Error& e) {
    throw ApiError(400, e.what(), field_of(e.what()));
  }
}

}  // namespace

Json parse_body(std::string_view body, const RequestLimits& limits) {
  return as_api_error([&] {
    JsonLimits json;
    json.max_bytes = limits.body_bytes;
    json.max_elements = 2'000'000;
    Json parsed = parse_json(body, kName, json);
    if (!parsed.is_object()) throw ApiError(400, "request: expected a JSON object, found " + shown(parsed));
    return parsed;
  });
}

std::vector<ChatTurn> parse_messages(const Json& body) {
  return as_api_error([&] {
    std::vector<ChatTurn> turns;
    const Json& messages = get_array(body, "messages", kName, 10'000);
    if (messages.empty()) refuse("messages", "expected at least one message, found none");
    for (const Json& message : messages) {
      if (!message.is_object()) refuse("messages", "expected objects, found " + shown(message));
      if (asks_for(message, "tool_calls"))
        refuse("messages", "tool_calls: this server does not support them");
      std::string role = get_string(message, "role", "request: messages", 64);
      if (role == "developer") role = "system";
      if (role != "system" && role != "user" && role != "assistant")
        refuse("messages", "role: expected system, user or assistant, found " + shown(role));
      turns.push_back({role, read_content(message)});
    }
    return turns;
  });
}

CompletionRequest parse_completion(std::string_view body, const RequestLimits& limits) {
  const Json json = parse_body(body, limits);
  return as_api_error([&] {
    CompletionRequest r;
    read_common(json, limits, r);
    refuse_unsupported(json, {"suffix", "use_beam_search"});
    if (get_int_or(json, "best_of", kName, 1, 128, r.generation.choices) != r.generation.choices)
      refuse("best_of", "expected n or nothing: answers are not ranked here");
    read_prompts(json, limits, r);
    r.max_tokens = read_max_tokens(json, "max_tokens", 0).value_or(16);
    r.echo = get_bool_or(json, "echo", kName, false);
    r.add_special_tokens = get_bool_or(json, "add_special_tokens", kName, true);
    r.generation.logprobs = get_int_or(json, "logprobs", kName, 0, kMaxLogprobs, -1);
    r.generation.prompt_logprobs = r.echo && r.generation.logprobs >= 0;
    return r;
  });
}

ChatRequest parse_chat(std::string_view body, const RequestLimits& limits) {
  const Json json = parse_body(body, limits);
  return as_api_error([&] {
    ChatRequest r;
    read_common(json, limits, r);
    refuse_unsupported(json, {"tools", "functions", "audio", "web_search_options"});
    r.turns = parse_messages(json);
    r.max_tokens = read_max_tokens(json, "max_completion_tokens", 1);
    if (!r.max_tokens) r.max_tokens = read_max_tokens(json, "max_tokens", 1);
    r.logprobs = get_bool_or(json, "logprobs", kName, false);
    const std::int64_t top = get_int_or(json, "top_logprobs", kName, 0, kMaxLogprobs, 0);
    if (top > 0 && !r.logprobs) refuse("top_logprobs", "expected logprobs to be true with it");
    r.generation.logprobs = r.logprobs ? top : -1;
    if (r.generation.choices > limits.answers)
      refuse("n", fmt::format("expected at most {} answers, found {}", limits.answers, r.generation.choices));
    return r;
  });
}

}  // namespace stem
