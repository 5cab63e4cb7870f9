#include "serve/openai_service.h"

#include <algorithm>
#include <iterator>

#include "generate/continuation.h"
#include "serve/api_error.h"

namespace stem {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(100);

HttpResponse json_response(const Json& json) {
  HttpResponse response;
  response.body = to_text(json);
  return response;
}

// Nobody reads it: the client has gone.
HttpResponse gone_response() {
  HttpResponse response;
  response.status = 499;
  response.body = to_text(error_json(499, "the client went away"));
  return response;
}

// Server-sent events: `part_json` makes the chunk of a part, or null for none; `last` the usage, or null.
template <class PartJson, class Last>
HttpResponse event_stream(EventSource source, const HttpRequest& request, PartJson part_json, Last last) {
  HttpResponse response;
  response.type = "text/event-stream";
  // Copyable, as std::function wants it; the source dies with the response and cancels what still runs.
  auto shared = std::make_shared<EventSource>(std::move(source));
  response.stream = [shared, part_json, last, gone = request.client_gone](const HttpWrite& write) mutable {
    const auto send = [&](const Json& json) {
      return json.is_null() || write("data: " + to_text(json) + "\n\n");
    };
    try {
      while (!shared->finished()) {
        const std::optional<AnswerPart> part = shared->next(kPatience);
        if (part ? !send(part_json(*part)) : gone()) return;
      }
      if (!send(last(*shared))) return;
    } catch (...) {
      if (!send(error_of_current_exception())) return;
    }
    write("data: [DONE]\n\n");
  };
  return response;
}

Json chunk(const ResponseHead& head, const char* object, Json choices, bool with_usage) {
  Json json = head.json(object);
  json["choices"] = std::move(choices);
  if (with_usage) json["usage"] = nullptr;
  return json;
}

// The last chunk: no choices, the usage alone.
Json usage_chunk(const ResponseHead& head, const char* object, const TokenUsage& usage) {
  Json json = head.json(object);
  json["choices"] = Json::array();
  json["usage"] = usage_json(usage);
  return json;
}

}  // namespace

OpenAiService::OpenAiService(Engine& engine, const Tokenizer& tokenizer, ServedModel model,
                             ServiceOptions options)
    : engine_(engine),
      tokenizer_(tokenizer),
      constraints_(tokenizer, engine.vocab()),
      model_(std::move(model)),
      options_(options) {
  try {
    chat_prompt_.emplace(tokenizer);
  } catch (const Error& e) {
    chat_fault_ = e.what();  // completions are to be had all the same
  }
}

RequestLimits OpenAiService::limits() const {
  return {options_.max_body_bytes, engine_.vocab(), engine_.options().slots + engine_.options().queue};
}

const ChatPrompt& OpenAiService::chat_prompt() const {
  if (!chat_prompt_) throw ApiError(400, chat_fault_);
  return *chat_prompt_;
}

void OpenAiService::check_model(const std::string& name) const {
  if (!name.empty() && name != model_.name) {
    throw ApiError(
        404, fmt::format("the model {} does not exist: {} is served here", shown(name), shown(model_.name)),
        "model");
  }
}

std::vector<std::int32_t> OpenAiService::encode(const std::string& text, bool add_special) const {
  return add_special ? text_tokens(tokenizer_, text) : tokenizer_.encode(text, false);
}

GenerationRequest OpenAiService::prepared(const CommonRequest& common, std::vector<std::int32_t> prompt) {
  GenerationRequest g = common.generation;
  const std::int64_t room = engine_.context() - std::ssize(prompt);
  g.max_tokens = common.max_tokens.value_or(std::max<std::int64_t>(room, 1));
  if (room >= 0 && common.max_tokens && *common.max_tokens > room) {
    throw ApiError(
        400,
        fmt::format("request: max_tokens: expected at most {}, what a prompt of {} tokens leaves of the "
                    "context's {}, found {}",
                    room, prompt.size(), engine_.context(), *common.max_tokens),
        "max_tokens");
  }
  if (const auto end = tokenizer_.eos_id(); end && !common.ignore_eos) g.sampling.stop_tokens.push_back(*end);
  if (common.schema) g.constraint = constraints_.maker(*common.schema, g.sampling.stop_tokens);
  g.prompt = std::move(prompt);
  if (options_.answer_seconds > 0) {
    g.deadline = std::chrono::steady_clock::now() +
                 std::chrono::milliseconds(static_cast<std::int64_t>(options_.answer_seconds * 1000));
  }
  return g;
}

HttpResponse OpenAiService::completions(const HttpRequest& http) {
  const CompletionRequest r = parse_completion(http.body, limits());
  check_model(r.model);
  std::vector<GenerationRequest> requests;
  std::vector<std::string> echoed;  // of each prompt
  for (const auto& prompt : r.prompts) {
    const auto* const text = std::get_if<std::string>(&prompt);
    std::vector<std::int32_t> ids =
        text != nullptr ? encode(*text, r.add_special_tokens) : std::get<std::vector<std::int32_t>>(prompt);
    if (r.echo) echoed.push_back(text != nullptr ? *text : tokenizer_.decode(ids));
    requests.push_back(prepared(r, std::move(ids)));
  }
  EventSource source(engine_.submit(std::move(requests)));
  const ResponseHead head = new_head("cmpl", model_.name);
  const std::int64_t n = r.generation.choices;
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(source.answers()), 0);
  std::vector<char> begun(offsets.size(), 0);
  const bool scores = r.generation.logprobs >= 0;
  // Each answer's first part carries what is echoed.
  auto choice_json = [this, offsets, begun, echoed, scores, n](AnswerPart part) mutable {
    const auto i = static_cast<std::size_t>(part.index);
    if (!std::exchange(begun[i], 1) && !echoed.empty())
      part.text.insert(0, echoed[i / static_cast<std::size_t>(n)]);
    return completion_choice(tokenizer_, part, scores ? &offsets[i] : nullptr);
  };
  constexpr const char* kObject = "text_completion";
  if (r.stream) {
    return event_stream(
        std::move(source), http,
        [head, choice_json, usage = r.include_usage](const AnswerPart& part) mutable {
          return chunk(head, kObject, Json::array({choice_json(part)}), usage);
        },
        [head, usage = r.include_usage](const EventSource& s) {
          return usage ? usage_chunk(head, kObject, s.usage()) : Json();
        });
  }
  auto answers = source.wait(http.client_gone);
  if (!answers) return gone_response();
  Json json = head.json(kObject);
  // Scores of the prompt belong to all answers, the engine tells them with the first.
  for (std::size_t i = 0; i < answers->size(); ++i)
    (*answers)[i].prompt = (*answers)[i - i % static_cast<std::size_t>(n)].prompt;
  json["choices"] = Json::array();
  for (AnswerPart& answer : *answers) json["choices"].push_back(choice_json(std::move(answer)));
  json["usage"] = usage_json(source.usage());
  return json_response(json);
}

HttpResponse OpenAiService::chat(const HttpRequest& http) {
  const ChatRequest r = parse_chat(http.body, limits());
  check_model(r.model);
  std::vector<std::int32_t> prompt = chat_prompt().encode(r.turns);
  if (std::ssize(prompt) >= engine_.context()) {
    throw ApiError(
        400,
        fmt::format("request: messages: expected at most {} tokens, found {}: the context holds {}",
                    engine_.context() - 1, prompt.size(), engine_.context()),
        "messages");
  }
  GenerationRequest request = prepared(r, std::move(prompt));
  request.continues = false;
  std::vector<GenerationRequest> requests;
  requests.push_back(std::move(request));
  EventSource source(engine_.submit(std::move(requests)));
  const ResponseHead head = new_head("chatcmpl", model_.name);
  if (r.stream) {
    constexpr const char* kObject = "chat.completion.chunk";
    std::vector<char> begun(static_cast<std::size_t>(source.answers()), 0);
    return event_stream(
        std::move(source), http,
        [this, head, begun, scores = r.logprobs,
         usage = r.include_usage](const AnswerPart& part) mutable -> Json {
          const bool first = !std::exchange(begun[static_cast<std::size_t>(part.index)], 1);
          // Text that is held back gives nothing to tell, unless scores are wanted.
          if (!first && part.text.empty() && part.finish == FinishReason::none && !scores) return {};
          return chunk(head, kObject, Json::array({chat_choice(tokenizer_, part, scores, true, first)}),
                       usage);
        },
        [head, usage = r.include_usage](const EventSource& s) {
          return usage ? usage_chunk(head, kObject, s.usage()) : Json();
        });
  }
  const auto answers = source.wait(http.client_gone);
  if (!answers) return gone_response();
  Json json = head.json("chat.completion");
  json["choices"] = Json::array();
  for (const AnswerPart& answer : *answers)
    json["choices"].push_back(chat_choice(tokenizer_, answer, r.logprobs, false, true));
  json["usage"] = usage_json(source.usage());
  return json_response(json);
}

Json OpenAiService::model_json() const {
  return {{"id", model_.name},
          {"object", "model"},
          {"created", model_.created},
          {"owned_by", "stem"},
          {"max_model_len", engine_.context()}};
}

HttpResponse OpenAiService::models() const {
  return json_response({{"object", "list"}, {"data", Json::array({model_json()})}});
}

HttpResponse OpenAiService::model(std::string_view name) const {
  check_model(std::string(name));
  return json_response(model_json());
}

HttpResponse OpenAiService::tokenize(const HttpRequest& http) const {
  const Json body = parse_body(http.body, limits());
  std::vector<std::int32_t> ids;
  if (body.contains("messages")) {
    ids = chat_prompt().encode(parse_messages(body));
  } else {
    // Unlike a prompt's, special tokens written in this text are tokens: clients look ids up here.
    const std::string text = get_string(body, "prompt", "request", options_.max_body_bytes);
    const auto start = tokenizer_.start_id();
    if (start && get_bool_or(body, "add_special_tokens", "request", true)) ids.push_back(*start);
    const auto rest = tokenizer_.encode(text);
    ids.insert(ids.end(), rest.begin(), rest.end());
  }
  Json json{{"count", ids.size()}, {"max_model_len", engine_.context()}, {"tokens", ids}};
  if (get_bool_or(body, "return_token_strs", "request", false)) {
    json["token_strs"] = Json::array();
    for (const std::int32_t id : ids) json["token_strs"].push_back(tokenizer_.token_bytes(id));
  }
  return json_response(json);
}

HttpResponse OpenAiService::detokenize(const HttpRequest& http) const {
  const Json body = parse_body(http.body, limits());
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : get_ints(body, "tokens", "request", 0, engine_.vocab() - 1))
    ids.push_back(static_cast<std::int32_t>(id));
  return json_response({{"prompt", tokenizer_.decode(ids)}});
}

HttpResponse OpenAiService::tokenizer_info() const {
  const auto text = [&](std::optional<std::int32_t> id) {
    return id ? Json(tokenizer_.token_bytes(*id)) : Json();
  };
  Json json{{"tokenizer_class", "PreTrainedTokenizerFast"},
            {"bos_token", text(tokenizer_.bos_id())},
            {"eos_token", text(tokenizer_.eos_id())},
            {"vocab_size", tokenizer_.vocab_size()},
            {"model_max_length", engine_.context()}};
  json["chat_template"] = tokenizer_.chat_template() ? Json(*tokenizer_.chat_template()) : Json();
  return json_response(json);
}

}  // namespace stem
