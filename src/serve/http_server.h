// HTTP/1.1 with bounds on everything: connections, bytes, time. The HTTP library is known to http_server.cc
// alone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stem {

/// What is known before the body is read.
struct HttpHead {
  std::string method, path, authorization;
};

struct HttpRequest {
  HttpHead head;
  std::string body;
  /// Whether the client has gone away; asked while an answer is made.
  std::function<bool()> client_gone;
};

/// Sends text; false when the client does not take it any more.
using HttpWrite = std::function<bool(std::string_view)>;

struct HttpResponse {
  int status = 200;
  std::string type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  std::function<void(const HttpWrite&)> stream;  ///< when set, makes the body piece by piece
};

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;  ///< 0: any free one
  std::int64_t max_body_bytes = std::int64_t{8} << 20;
  std::int64_t max_connections = 256;             ///< each has a thread while it lasts
  double header_seconds = 10, body_seconds = 60;  ///< for all of a request's head, for all of its body
  double idle_seconds = 30;                       ///< between requests of a connection
  double write_seconds = 30;                      ///< without a byte taken by the client
};

/// What a server asks of whoever answers. All may be called by several threads at once.
struct HttpHandlers {
  /// Before the body is read: a response refuses the request and closes the connection.
  std::function<std::optional<HttpResponse>(const HttpHead&)> admit;
  std::function<HttpResponse(const HttpRequest&)> handle;
  /// The body (application/json) of an error that HTTP itself finds.
  std::function<std::string(int status, std::string_view message)> error_body;
};

/// Listens from construction until `stop`. Connections beyond max_connections get 503, except for requests
/// that `admit` answers itself (/health): those are answered always.
class HttpServer {
 public:
  /// Throws kIo when the address cannot be bound.
  HttpServer(HttpOptions options, HttpHandlers handlers);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  std::int64_t connections() const;
  /// Takes no more connections, ends idle ones, returns when the requests under way are answered.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stem
