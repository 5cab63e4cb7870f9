// The filters, tests, methods and functions of chat templates; for the .cc files of this room.
#pragma once

#include <fmt/format.h>

#include <ctime>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "text/chat_template_value.h"

namespace stem::chat {

/// What goes wrong while a template runs; the renderer adds where.
struct Fault {
  ErrorCode code;
  std::string text;
};
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Fault{ErrorCode::kFormat, fmt::format(format, std::forward<Args>(args)...)};
}

/// Counts what a rendering takes, and stops it beyond a limit.
class Meter {
 public:
  static constexpr std::size_t kMaxSteps = 2'000'000;
  static constexpr std::size_t kMaxBytes = std::size_t{256} << 20;  // of all values made, together

  void step() {
    if (++steps_ > kMaxSteps) refuse("more than {} steps", kMaxSteps);
  }
  void bytes(std::size_t count) {
    if (count > kMaxBytes || (bytes_ += count) > kMaxBytes) refuse("values of more than {} bytes", kMaxBytes);
  }
  Value text(std::string s) {
    bytes(s.size());
    return Value::text(std::move(s));
  }
  Value list(List items) {
    bytes(items.size() * sizeof(Value));
    return make_list(std::move(items));
  }

 private:
  std::size_t steps_ = 0, bytes_ = 0;
};

struct Arguments {
  List positional;
  Entries named;
  /// The values by the names of parameters, null for those not given. A Fault if there are more or others, or
  /// fewer than `required`.
  std::vector<const Value*> bind(std::string_view callee, std::initializer_list<std::string_view> parameters,
                                 std::size_t required) const;
};

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Meter& meter);
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments);
Value call_method(const Value& object, std::string_view name, const Arguments& arguments, Meter& meter);
bool is_function(std::string_view name);
Value call_function(std::string_view name, const Arguments& arguments, std::time_t now, Meter& meter);

// What calls share.

/// The value of an argument. A Fault names the `callee` if it is of another kind.
const std::string& string_argument(const Value& value, std::string_view callee);
std::int64_t integer_argument(const Value& value, std::string_view callee);
/// Null if it is not given, or none.
const std::string* optional_string(const Value* value, std::string_view callee);

/// Python's methods of strings; call_method for a string.
Value string_method(const std::string& text, std::string_view name, const Arguments& arguments, Meter& meter);
/// At most `count` times, unless it is negative.
std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         std::int64_t count, Meter& meter);
Value join_list(const List& items, std::string_view separator, Meter& meter);

/// object.name and object[key]; undefined if there is none, a Fault if the object is undefined.
Value member(const Value& object, std::string_view name);
Value item(const Value& object, const Value& key, Meter& meter);
/// What a loop over the value goes through.
List elements(const Value& value, Meter& meter);
bool contains(const Value& whole, const Value& part, Meter& meter);
/// -1, 0, 1 of two numbers or two strings.
int order(const Value& a, const Value& b);

/// a op b for + - * / // % ~, and for == != < <= > >= in "not in"; not, - and + before a.
Value binary(std::string_view op, const Value& a, const Value& b, Meter& meter);
bool compare(std::string_view op, const Value& a, const Value& b, Meter& meter);
Value unary(std::string_view op, const Value& a);
/// Python's object[start:stop:step]; null or none: left out.
Value slice(const Value& object, const Value* start, const Value* stop, const Value* step, Meter& meter);
/// str(value).
std::string text_of(const Value& value);

}  // namespace stem::chat
