#include <algorithm>
#include <cmath>
#include <limits>

#include "text/chat_template_calls.h"

namespace stem::chat {
namespace {

std::int64_t checked(bool overflow, const std::int64_t& result) {
  if (overflow) refuse("an integer beyond 64 bits");
  return result;
}

Value arithmetic(std::string_view op, const Value& a, const Value& b) {
  std::int64_t i = 0, j = 0, result = 0;
  const double x = a.as_double(), y = b.as_double();
  if ((op == "/" || op == "//" || op == "%") && y == 0) refuse("a division by 0");
  if (op == "/") return {x / y};
  if (a.as_integer(i) && b.as_integer(j)) {
    if (op == "+") return Value::integer(checked(__builtin_add_overflow(i, j, &result), result));
    if (op == "-") return Value::integer(checked(__builtin_sub_overflow(i, j, &result), result));
    if (op == "*") return Value::integer(checked(__builtin_mul_overflow(i, j, &result), result));
    if (j == -1) {
      if (op == "%") return Value::integer(0);
      return Value::integer(checked(__builtin_sub_overflow(0, i, &result), result));
    }
    const bool below = i % j != 0 && (i < 0) != (j < 0);  // Python rounds down
    return Value::integer(op == "%" ? i % j + (below ? j : 0) : i / j - (below ? 1 : 0));
  }
  if (op == "+") return {x + y};
  if (op == "-") return {x - y};
  if (op == "*") return {x * y};
  return {op == "//" ? std::floor(x / y) : x - y * std::floor(x / y)};
}

}  // namespace

Value unary(std::string_view op, const Value& a) {
  if (op == "not") return Value::boolean(!truthy(a));
  if (!a.is_number()) refuse("{} before {}", op, kind_of(a));
  std::int64_t integer = 0;
  if (!a.as_integer(integer)) return {op == "-" ? -a.as_double() : a.as_double()};
  if (op == "-") checked(__builtin_sub_overflow(0, integer, &integer), integer);
  return Value::integer(integer);
}

Value binary(std::string_view op, const Value& a, const Value& b, Meter& meter) {
  if (op == "~") return meter.text(text_of(a) + text_of(b));
  for (const Value* value : {&a, &b}) {
    if (const auto* missing = std::get_if<Undefined>(&value->data)) refuse("{} is undefined", missing->name);
  }
  if (a.is_number() && b.is_number()) return arithmetic(op, a, b);
  const std::string* text = a.as_text();
  std::int64_t times = 0;
  if (op == "+" && text != nullptr && b.as_text() != nullptr) {
    meter.bytes(text->size() + b.as_text()->size());
    return Value::text(*text + *b.as_text());
  }
  if (op == "+" && a.as_list() != nullptr && b.as_list() != nullptr &&
      a.as_list()->tuple == b.as_list()->tuple) {
    List items = elements(a, meter);
    const List more = elements(b, meter);
    items.insert(items.end(), more.begin(), more.end());
    return make_list(std::move(items), a.as_list()->tuple);
  }
  if (op == "*" && text != nullptr && b.as_integer(times)) {
    if (text->empty()) return a;
    const auto count = static_cast<std::size_t>(std::max<std::int64_t>(times, 0));
    meter.bytes(count > Meter::kMaxBytes ? count : count * text->size());
    std::string out;
    out.reserve(count * text->size());
    for (std::size_t i = 0; i < count; ++i) out += *text;
    return Value::text(std::move(out));
  }
  refuse("unsupported: {} {} {}", kind_of(a), op, kind_of(b));
}

bool compare(std::string_view op, const Value& a, const Value& b, Meter& meter) {
  if (op == "==" || op == "!=") return equal(a, b) == (op == "==");
  if (op == "in" || op == "not in") return contains(b, a, meter) == (op == "in");
  const int sign = order(a, b);
  if (op == "<") return sign < 0;
  if (op == "<=") return sign <= 0;
  return op == ">" ? sign > 0 : sign >= 0;
}

Value slice(const Value& object, const Value* start, const Value* stop, const Value* step, Meter& meter) {
  if (object.as_list() == nullptr && object.as_text() == nullptr) refuse("cannot slice {}", kind_of(object));
  constexpr std::int64_t kAbsent = std::numeric_limits<std::int64_t>::min();
  const auto number = [](const Value* value) {
    std::int64_t out = kAbsent;
    if (value == nullptr || value->is<None>()) return out;
    if (!value->as_integer(out)) refuse("a slice with {} as a bound", kind_of(*value));
    return std::max(out, -std::numeric_limits<std::int64_t>::max());
  };
  const List items = elements(object, meter);
  const auto size = static_cast<std::int64_t>(items.size());
  std::int64_t stride = number(step);
  if (stride == kAbsent) stride = 1;
  if (stride == 0) refuse("a slice with a step of 0");
  stride = std::clamp(stride, -size - 1, size + 1);  // further is not further
  const bool forward = stride > 0;
  const std::int64_t low = forward ? 0 : -1, high = forward ? size : size - 1;
  const auto place = [&](std::int64_t i, std::int64_t otherwise) {
    if (i == kAbsent) return otherwise;
    return std::clamp(i < 0 ? std::max(i, -size - 1) + size : i, low, high);
  };
  const std::int64_t first = place(number(start), forward ? low : high);
  const std::int64_t end = place(number(stop), forward ? high : low);
  List out;
  for (std::int64_t i = first; forward ? i < end : i > end; i += stride) {
    out.push_back(items[static_cast<std::size_t>(i)]);
  }
  if (object.as_list() != nullptr) {
    meter.bytes(out.size() * sizeof(Value));
    return make_list(std::move(out), object.as_list()->tuple);
  }
  return join_list(out, "", meter);
}

}  // namespace stem::chat
