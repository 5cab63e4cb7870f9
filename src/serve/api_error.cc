#include "serve/api_error.h"

#include <new>

#include "generate/engine.h"

namespace stem {
namespace {

struct Kind {
  const char* type;
  const char* code;  // null: none
};

Kind kind_of(int status) {
  switch (status) {
    case 401:
      return {"authentication_error", "invalid_api_key"};
    case 404:
      return {"not_found_error", "not_found"};
    case 413:
      return {"invalid_request_error", "request_too_large"};
    case 429:
      return {"rate_limit_error", "queue_full"};
    case 503:
      return {"overloaded_error", "unavailable"};
    default:
      return {status >= 500 ? "server_error" : "invalid_request_error", nullptr};
  }
}

struct Told {
  int status;
  std::string message, param;
};

Told current() {
  try {
    throw;
  } catch (const ApiError& e) {
    return {e.status, e.what(), e.param};
  } catch (const RequestRefused& e) {
    return {e.why == RequestRefused::Reason::draining ? 503 : 429, e.what(), {}};
  } catch (const Error& e) {
    const bool theirs = e.code() == ErrorCode::kUsage || e.code() == ErrorCode::kFormat ||
                        e.code() == ErrorCode::kMismatch || e.code() == ErrorCode::kNotFound;
    return {theirs ? 400 : 500, e.what(), theirs ? field_of(e.what()) : std::string()};
  } catch (const std::bad_alloc&) {
    return {503, "not enough memory for this request", {}};
  } catch (const std::exception& e) {
    return {500, e.what(), {}};
  }
}

}  // namespace

std::string to_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string field_of(std::string_view message) {
  for (const std::string_view start : {"request: ", "the "}) {
    if (message.starts_with(start)) message.remove_prefix(start.size());
  }
  const std::string_view field = message.substr(0, message.find_first_not_of("abcdefghijklmnopqrstuvwxyz_"));
  const std::string_view rest = message.substr(field.size());  // an element is named "tokens[0]"
  if (field.empty() || !(rest.starts_with(": ") || rest.starts_with("["))) return {};
  return field == "schema" ? "response_format" : std::string(field);
}

Json error_json(int status, std::string_view message, std::string_view param) {
  const Kind kind = kind_of(status);
  return {{"error",
           {{"message", message},
            {"type", kind.type},
            {"param", param.empty() ? Json() : Json(param)},
            {"code", kind.code == nullptr ? Json() : Json(kind.code)}}}};
}

HttpResponse response_to_current_exception() {
  const Told told = current();
  HttpResponse response;
  response.status = told.status;
  response.body = to_text(error_json(told.status, told.message, told.param));
  if (told.status == 429 || told.status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

Json error_of_current_exception() {
  const Told told = current();
  return error_json(told.status, told.message, told.param);
}

}  // namespace stem
