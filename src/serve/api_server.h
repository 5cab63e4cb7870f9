// The whole server: which path leads where, who may, and how it ends.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "serve/http_server.h"
#include "serve/metrics.h"
#include "serve/openai_service.h"

namespace stem {

struct ApiOptions {
  HttpOptions http;
  std::vector<std::string> keys;  ///< clients must show one of them; empty: anybody may
  ServiceOptions service;
};

/// The keys of a file: one a line, # begins a comment. Throws kNotFound, kIo, and kFormat where there is
/// none.
std::vector<std::string> read_api_keys(const std::string& path);

/// Serves an engine over HTTP from construction on.
///   /v1/models  /v1/models/NAME  /v1/completions  /v1/chat/completions
///   /tokenize  /detokenize  /tokenizer_info  /health  /metrics  /
/// Every error has a body as OpenAI's. Keys are asked for everywhere but at the last three.
class ApiServer {
 public:
  ApiServer(Engine& engine, const Tokenizer& tokenizer, const ServedModel& model, ApiOptions options);

  int port() const { return http_->port(); }
  /// Answers nothing new, /health with 503, and returns when what runs has ended.
  void drain();

 private:
  using Answer = std::function<HttpResponse(const HttpRequest&)>;
  struct Route {
    std::string method;
    bool open = false;   // without a key
    bool quick = false;  // answered before the body is read, even when connections run out
    Answer answer;
  };
  void add_routes(OpenAiService& service);
  const Route* find(const HttpHead& head, bool* wrong_method) const;
  bool authorized(const HttpHead& head) const;
  std::optional<HttpResponse> admit(const HttpHead& head);
  HttpResponse handle(const HttpRequest& request);
  HttpResponse counted(HttpResponse response);

  Engine& engine_;
  std::vector<std::string> keys_;
  OpenAiService service_;
  MetricsSource metrics_;
  HttpCounters counters_;
  std::map<std::string, Route> routes_;
  std::unique_ptr<HttpServer> http_;  // last: its threads use the others
};

}  // namespace stem
