// The endpoints that make text: requests of OpenAI's API through an engine.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "generate/chat_prompt.h"
#include "generate/engine.h"
#include "generate/json_schema.h"
#include "serve/event_source.h"
#include "serve/http_server.h"
#include "serve/openai_request.h"
#include "text/tokenizer.h"

namespace stem {

/// The model as clients see it.
struct ServedModel {
  std::string name;
  std::int64_t created = 0;  ///< seconds since 1970
};

struct ServiceOptions {
  std::size_t max_body_bytes = 8u << 20;
  double answer_seconds = 0;  ///< most time for a response; 0: any
};

/// Thin: reads a request, gives it to the engine, writes the answer. Functions throw ApiError or Error.
class OpenAiService {
 public:
  /// Engine and tokenizer must outlive it.
  OpenAiService(Engine& engine, const Tokenizer& tokenizer, ServedModel model, ServiceOptions options);

  HttpResponse completions(const HttpRequest& request);
  HttpResponse chat(const HttpRequest& request);
  HttpResponse models() const;
  HttpResponse model(std::string_view name) const;
  HttpResponse tokenize(const HttpRequest& request) const;
  HttpResponse detokenize(const HttpRequest& request) const;
  HttpResponse tokenizer_info() const;

 private:
  RequestLimits limits() const;
  Json model_json() const;
  const ChatPrompt& chat_prompt() const;
  void check_model(const std::string& name) const;
  std::vector<std::int32_t> encode(const std::string& text, bool add_special) const;
  GenerationRequest prepared(const CommonRequest& common, std::vector<std::int32_t> prompt);

  Engine& engine_;
  Tokenizer tokenizer_;
  std::optional<ChatPrompt> chat_prompt_;
  std::string chat_fault_;  ///< why there is none
  SchemaConstraints constraints_;
  ServedModel model_;
  ServiceOptions options_;
};

}  // namespace stem
