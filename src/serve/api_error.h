// Errors as clients of OpenAI's API know them.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>

#include "io/json.h"
#include "serve/http_server.h"

namespace stem {

/// Ends a request with an HTTP status and an error body.
class ApiError : public std::runtime_error {
 public:
  explicit ApiError(int http_status, const std::string& message, std::string about = {})
      : std::runtime_error(message), status(http_status), param(std::move(about)) {}
  int status;
  std::string param;  ///< the field at fault, if there is one
};

/// JSON on one line; bytes that are not UTF-8 become U+FFFD.
std::string to_text(const Json& json);

/// The request's field that a message of its readers is about: "request: top_p: expected …", "top_p: …",
/// "the prompt: …". Empty for any other.
std::string field_of(std::string_view message);

/// {"error": {"message", "type", "param", "code"}}; type and code follow from the status.
Json error_json(int status, std::string_view message, std::string_view param = {});

/// The response to the exception being handled: an ApiError as it says; RequestRefused 429 with Retry-After
/// or 503; an Error of the user's making 400, others 500; lack of memory 503.
HttpResponse response_to_current_exception();

/// What response_to_current_exception would say, as JSON for a stream that has begun.
Json error_of_current_exception();

}  // namespace stem
