#include <algorithm>
#include <array>
#include <functional>

#include "text/chat_template_calls.h"
#include "text/utf8.h"

namespace stem::chat {

const std::string& string_argument(const Value& value, std::string_view callee) {
  const std::string* text = value.as_text();
  if (text == nullptr) refuse("{}: expected a string, found {}", callee, kind_of(value));
  return *text;
}

std::int64_t integer_argument(const Value& value, std::string_view callee) {
  std::int64_t integer = 0;
  if (!value.as_integer(integer)) refuse("{}: expected an integer, found {}", callee, kind_of(value));
  return integer;
}

const std::string* optional_string(const Value* value, std::string_view callee) {
  return value == nullptr || value->is<None>() ? nullptr : &string_argument(*value, callee);
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         std::int64_t count, Meter& meter) {
  if (from.empty()) refuse("replace: unsupported: an empty string to look for");
  std::string out;
  for (; count != 0; --count) {
    const std::size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    meter.bytes(at + to.size());
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

namespace {

Value split_text(std::string_view text, const std::string* separator, std::int64_t count, Meter& meter) {
  List parts;
  if (separator != nullptr) {
    if (separator->empty()) refuse("split: the separator is empty");
    for (; count != 0; --count) {
      const std::size_t at = text.find(*separator);
      if (at == std::string_view::npos) break;
      parts.push_back(meter.text(std::string(text.substr(0, at))));
      text.remove_prefix(at + separator->size());
    }
    parts.push_back(meter.text(std::string(text)));
    return meter.list(std::move(parts));
  }
  for (text = strip(text, nullptr, true, false); !text.empty(); text = strip(text, nullptr, true, false)) {
    std::size_t length = 0;
    if (count == 0) {
      length = text.size();
    } else {
      while (length < text.size()) {
        const std::size_t step = utf8_step(text.substr(length)).length;
        if (strip(text.substr(length, step), nullptr, true, false).empty()) break;
        length += step;
      }
    }
    parts.push_back(meter.text(std::string(text.substr(0, length))));
    text.remove_prefix(std::min(length, text.size()));
    --count;
  }
  return meter.list(std::move(parts));
}

Value split_lines(std::string_view text, Meter& meter) {
  List lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("\r\n"), text.size());
    lines.push_back(meter.text(std::string(text.substr(0, end))));
    const bool pair = text.substr(end).starts_with("\r\n");
    text.remove_prefix(std::min(end + (pair ? 2 : 1), text.size()));
  }
  return meter.list(std::move(lines));
}

// startswith and endswith take one string or a tuple of them.
bool any_of(const Value& value, std::string_view callee,
            const std::function<bool(const std::string&)>& fits) {
  const ListBox* list = value.as_list();
  if (list == nullptr || !list->tuple) return fits(string_argument(value, callee));
  return std::any_of(list->items.begin(), list->items.end(),
                     [&](const Value& v) { return fits(string_argument(v, callee)); });
}

std::int64_t find_text(std::string_view text, const std::string& part) {
  const std::size_t at = text.find(part);
  return at == std::string_view::npos ? -1 : static_cast<std::int64_t>(character_count(text.substr(0, at)));
}

std::int64_t count_text(std::string_view text, const std::string& part) {
  if (part.empty()) refuse("count: the string is empty");
  std::int64_t count = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

}  // namespace

Value join_list(const List& items, std::string_view separator, Meter& meter) {
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    const std::size_t before = out.size();
    out += text_of(items[i]);
    meter.bytes(out.size() - before + separator.size());
  }
  return Value::text(std::move(out));
}

Value string_method(const std::string& text, std::string_view name, const Arguments& arguments,
                    Meter& meter) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const auto given = arguments.bind(name, {"chars"}, 0);
    return meter.text(
        std::string(strip(text, optional_string(given[0], name), name != "rstrip", name != "lstrip")));
  }
  if (name == "startswith" || name == "endswith") {
    const auto given = arguments.bind(name, {"prefix"}, 1);
    return Value::boolean(any_of(*given[0], name, [&](const std::string& part) {
      return name == "startswith" ? text.starts_with(part) : text.ends_with(part);
    }));
  }
  if (name == "split") {
    const auto given = arguments.bind(name, {"sep", "maxsplit"}, 0);
    return split_text(text, optional_string(given[0], name),
                      given[1] != nullptr ? integer_argument(*given[1], name) : -1, meter);
  }
  if (name == "replace") {
    const auto given = arguments.bind(name, {"old", "new", "count"}, 2);
    return Value::text(replace_text(text, string_argument(*given[0], name), string_argument(*given[1], name),
                                    given[2] != nullptr ? integer_argument(*given[2], name) : -1, meter));
  }
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& part = string_argument(*arguments.bind(name, {"part"}, 1)[0], name);
    std::string_view rest = text;
    if (name == "removeprefix" && rest.starts_with(part)) rest.remove_prefix(part.size());
    if (name == "removesuffix" && rest.ends_with(part)) rest.remove_suffix(part.size());
    return meter.text(std::string(rest));
  }
  if (name == "find" || name == "count") {
    const std::string& part = string_argument(*arguments.bind(name, {"part"}, 1)[0], name);
    return Value::integer(name == "find" ? find_text(text, part) : count_text(text, part));
  }
  if (name == "join") {
    return join_list(elements(*arguments.bind(name, {"items"}, 1)[0], meter), text, meter);
  }
  constexpr auto kPlain =
      std::to_array<std::string_view>({"upper", "lower", "title", "capitalize", "splitlines"});
  if (std::find(kPlain.begin(), kPlain.end(), name) == kPlain.end()) {
    refuse("unsupported: the method {} of a string", name);
  }
  arguments.bind(name, {}, 0);
  if (name == "splitlines") return split_lines(text, meter);
  if (name == "title" || name == "capitalize") {
    return meter.text(capitalize(text, name == "title" ? Words::kOfLetters : Words::kNone));
  }
  return meter.text(change_case(text, name == "upper"));
}

}  // namespace stem::chat
