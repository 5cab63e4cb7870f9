#include "serve/api_server.h"

#include <algorithm>
#include <chrono>
#include <sstream>

#include "io/file.h"
#include "serve/api_error.h"
#include "serve/chat_page.h"

namespace stem {
namespace {

constexpr std::string_view kModelPath = "/v1/models/";

// Takes as long for a wrong key as for a right one of the same length.
bool equal_in_constant_time(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  return difference == 0;
}

HttpResponse error_response(int status, std::string_view message) {
  HttpResponse response;
  response.status = status;
  response.body = to_text(error_json(status, message));
  return response;
}

}  // namespace

std::vector<std::string> read_api_keys(const std::string& path) {
  std::istringstream lines(read_file(path));
  std::vector<std::string> keys;
  for (std::string line; std::getline(lines, line);) {
    line = line.substr(0, line.find('#'));
    const auto begin = line.find_first_not_of(" \t\r"), end = line.find_last_not_of(" \t\r");
    if (begin != std::string::npos) keys.push_back(line.substr(begin, end - begin + 1));
  }
  if (keys.empty()) fail(ErrorCode::kFormat, "{}: expected a key on a line, found none", path);
  return keys;
}

ApiServer::ApiServer(Engine& engine, const Tokenizer& tokenizer, const ServedModel& model, ApiOptions options)
    : engine_(engine), keys_(std::move(options.keys)), service_(engine, tokenizer, model, options.service) {
  metrics_ = {model.name, [&engine] { return engine.stats(); },
              [this] { return http_ ? http_->connections() : 0; }};
  add_routes(service_);
  options.http.max_body_bytes = static_cast<std::int64_t>(options.service.max_body_bytes);
  http_ = std::make_unique<HttpServer>(
      options.http, HttpHandlers{[this](const HttpHead& head) { return admit(head); },
                                 [this](const HttpRequest& request) { return handle(request); },
                                 [this](int status, std::string_view message) {
                                   counters_.add(status);
                                   return to_text(error_json(status, message));
                                 }});
}

void ApiServer::drain() {
  engine_.drain();
  // Until the last answer is made, /health tells whoever sends requests here to send them elsewhere.
  while (!engine_.wait_until_idle(std::chrono::milliseconds(100))) {
  }
  http_->stop();
}

void ApiServer::add_routes(OpenAiService& service) {
  const auto add = [&](const char* path, Route route) { routes_.emplace(path, std::move(route)); };
  add("/v1/completions",
      {"POST", false, false, [&](const HttpRequest& r) { return service.completions(r); }});
  add("/v1/chat/completions", {"POST", false, false, [&](const HttpRequest& r) { return service.chat(r); }});
  add("/tokenize", {"POST", false, false, [&](const HttpRequest& r) { return service.tokenize(r); }});
  add("/detokenize", {"POST", false, false, [&](const HttpRequest& r) { return service.detokenize(r); }});
  add("/v1/models", {"GET", false, false, [&](const HttpRequest&) { return service.models(); }});
  add(kModelPath.data(), {"GET", false, false, [&](const HttpRequest& r) {
                            return service.model(std::string_view(r.head.path).substr(kModelPath.size()));
                          }});
  add("/tokenizer_info", {"GET", false, false, [&](const HttpRequest&) { return service.tokenizer_info(); }});
  add("/health", {"GET", true, true, [this](const HttpRequest&) {
                    HttpResponse response;
                    const bool draining = engine_.draining();
                    response.status = draining ? 503 : 200;
                    response.body = draining ? "{\"status\":\"draining\"}" : "{\"status\":\"ok\"}";
                    return response;
                  }});
  add("/metrics", {"GET", true, true, [this](const HttpRequest&) {
                     HttpResponse response;
                     response.type = "text/plain; version=0.0.4; charset=utf-8";
                     response.body = metrics_text(metrics_, counters_);
                     return response;
                   }});
  add("/", {"GET", true, false, [](const HttpRequest&) {
              HttpResponse response;
              response.type = "text/html; charset=utf-8";
              response.body = std::string(chat_page());
              response.headers = {
                  {"Content-Security-Policy",
                   "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                   "connect-src 'self'; base-uri 'none'; form-action 'none'"},
                  {"X-Content-Type-Options", "nosniff"}};
              return response;
            }});
}

const ApiServer::Route* ApiServer::find(const HttpHead& head, bool* wrong_method) const {
  const std::string path = head.path.starts_with(kModelPath) ? std::string(kModelPath) : head.path;
  const auto it = routes_.find(path);
  if (it == routes_.end()) return nullptr;
  *wrong_method = head.method != it->second.method && !(head.method == "HEAD" && it->second.method == "GET");
  return &it->second;
}

bool ApiServer::authorized(const HttpHead& head) const {
  constexpr std::string_view kBearer = "Bearer ";
  if (keys_.empty()) return true;
  if (!head.authorization.starts_with(kBearer)) return false;
  const std::string_view shown = std::string_view(head.authorization).substr(kBearer.size());
  bool found = false;
  for (const std::string& key : keys_) found = equal_in_constant_time(key, shown) || found;
  return found;
}

// What can be said before the body is read.
std::optional<HttpResponse> ApiServer::admit(const HttpHead& head) {
  bool wrong_method = false;
  const Route* const route = find(head, &wrong_method);
  if (route == nullptr) return counted(error_response(404, "there is nothing at " + shown(head.path)));
  if (wrong_method) {
    HttpResponse response =
        error_response(405, fmt::format("{} takes {}, not {}", head.path, route->method, head.method));
    response.headers.emplace_back("Allow", route->method);
    return counted(std::move(response));
  }
  if (!route->open && !authorized(head)) {
    HttpResponse response =
        error_response(401, "expected a key of this server as \"Authorization: Bearer KEY\"");
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
    return counted(std::move(response));
  }
  if (route->quick) return counted(route->answer({head, {}, {}}));
  return std::nullopt;
}

HttpResponse ApiServer::handle(const HttpRequest& request) {
  bool wrong_method = false;
  const Route* const route = find(request.head, &wrong_method);
  try {
    return counted(route->answer(request));
  } catch (...) {
    return counted(response_to_current_exception());
  }
}

HttpResponse ApiServer::counted(HttpResponse response) {
  counters_.add(response.status);
  return response;
}

}  // namespace stem
