#include "text/chat_template_value.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "text/utf8.h"

namespace stem::chat {
namespace {

constexpr int kMaxDepth = 64;

// Python's str.isspace.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

int depth_of(const Value& value) {
  if (value.as_space() != nullptr) throw std::length_error("a namespace within another value");
  if (const ListBox* list = value.as_list()) return list->depth;
  if (const DictBox* dict = value.as_dict()) return dict->depth;
  return 0;
}

int deeper(int depth) {
  if (depth >= kMaxDepth) throw std::length_error(fmt::format("values nested deeper than {}", kMaxDepth));
  return depth + 1;
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  if (value == std::floor(value) && std::abs(value) < 1e16) return fmt::format("{:.1f}", value);
  return fmt::format("{}", value);
}

void append_line(int indent, int level, std::string& out) {
  out += '\n';
  out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(level), ' ');
}

bool append_json(const Value& value, int indent, int level, std::string& out) {
  const auto element = [&](bool first) {
    if (!first) out += indent < 0 ? ", " : ",";
    if (indent >= 0) append_line(indent, level + 1, out);
  };
  if (const std::string* text = value.as_text()) {
    out += Json(*text).dump(-1, ' ', false, Json::error_handler_t::replace);
  } else if (const ListBox* list = value.as_list()) {
    out += '[';
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      element(i == 0);
      if (!append_json(list->items[i], indent, level + 1, out)) return false;
    }
    if (indent >= 0 && !list->items.empty()) append_line(indent, level, out);
    out += ']';
  } else if (const DictBox* dict = value.as_dict()) {
    out += '{';
    for (std::size_t i = 0; i < dict->entries.size(); ++i) {
      element(i == 0);
      append_json(Value::text(dict->entries[i].first), indent, level + 1, out);
      out += ": ";
      if (!append_json(dict->entries[i].second, indent, level + 1, out)) return false;
    }
    if (indent >= 0 && !dict->entries.empty()) append_line(indent, level, out);
    out += '}';
  } else if (value.is<None>()) {
    out += "null";
  } else if (const bool* truth = std::get_if<bool>(&value.data)) {
    out += *truth ? "true" : "false";
  } else {
    return value.is_number() && to_text(value, out);
  }
  return true;
}

}  // namespace

const Value* DictBox::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

bool Value::as_integer(std::int64_t& out) const {
  if (const auto* integer = std::get_if<std::int64_t>(&data)) {
    out = *integer;
    return true;
  }
  if (const bool* truth = std::get_if<bool>(&data)) {
    out = *truth ? 1 : 0;
    return true;
  }
  return false;
}

double Value::as_double() const {
  std::int64_t integer = 0;
  if (as_integer(integer)) return static_cast<double>(integer);
  const double* number = std::get_if<double>(&data);
  return number != nullptr ? *number : 0;
}

Value make_list(List items, bool tuple) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  return {std::make_shared<const ListBox>(ListBox{std::move(items), tuple, deeper(depth)})};
}

Value make_dict(Entries entries) {
  int depth = 0;
  for (const auto& [key, item] : entries) depth = std::max(depth, depth_of(item));
  return {std::make_shared<const DictBox>(DictBox{std::move(entries), deeper(depth)})};
}

Value from_json(const Json& json) {
  if (json.is_string()) return Value::text(json.get<std::string>());
  if (json.is_boolean()) return Value::boolean(json.get<bool>());
  if (json.is_number_float()) return {json.get<double>()};
  if (json.is_number()) return Value::integer(json.get<std::int64_t>());
  if (json.is_array()) {
    List items;
    for (const Json& item : json) items.push_back(from_json(item));
    return make_list(std::move(items));
  }
  if (json.is_object()) {
    Entries entries;
    for (const auto& [key, item] : json.items()) entries.emplace_back(key, from_json(item));
    return make_dict(std::move(entries));
  }
  return Value::none();
}

bool to_json_text(const Value& value, int indent, std::string& out) {
  return append_json(value, indent, 0, out);
}

std::string_view kind_of(const Value& value) {
  if (value.is<Undefined>()) return "an undefined value";
  if (value.is<None>()) return "none";
  if (value.is<bool>()) return "a boolean";
  if (value.is_number()) return "a number";
  if (value.as_text() != nullptr) return "a string";
  if (const ListBox* list = value.as_list()) return list->tuple ? "a tuple" : "a list";
  return value.as_dict() != nullptr ? "a dict" : "a namespace";
}

bool truthy(const Value& value) {
  if (value.is<Undefined>() || value.is<None>()) return false;
  if (value.is_number()) return value.as_double() != 0;
  if (const std::string* text = value.as_text()) return !text->empty();
  if (const ListBox* list = value.as_list()) return !list->items.empty();
  if (const DictBox* dict = value.as_dict()) return !dict->entries.empty();
  return true;
}

bool equal(const Value& a, const Value& b) {
  std::int64_t i = 0, j = 0;
  if (a.as_integer(i) && b.as_integer(j)) return i == j;
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  if (a.data.index() != b.data.index()) return false;
  if (const std::string* text = a.as_text()) return *text == *b.as_text();
  if (const ListBox* list = a.as_list()) {
    const ListBox& other = *b.as_list();
    if (list->tuple != other.tuple || list->items.size() != other.items.size()) return false;
    for (std::size_t k = 0; k < list->items.size(); ++k) {
      if (!equal(list->items[k], other.items[k])) return false;
    }
    return true;
  }
  if (const DictBox* dict = a.as_dict()) {
    const DictBox& other = *b.as_dict();
    if (dict->entries.size() != other.entries.size()) return false;
    for (const auto& [key, value] : dict->entries) {
      const Value* found = other.find(key);
      if (found == nullptr || !equal(value, *found)) return false;
    }
    return true;
  }
  return a.as_space() == b.as_space();  // also none and none, undefined and undefined
}

bool to_text(const Value& value, std::string& out) {
  std::int64_t integer = 0;
  if (const std::string* text = value.as_text()) {
    out += *text;
  } else if (value.is<None>()) {
    out += "None";
  } else if (const bool* truth = std::get_if<bool>(&value.data)) {
    out += *truth ? "True" : "False";
  } else if (value.as_integer(integer)) {
    out += fmt::format("{}", integer);
  } else if (value.is<double>()) {
    out += float_text(value.as_double());
  } else {
    return value.is<Undefined>();
  }
  return true;
}

std::size_t character_count(std::string_view text) {
  std::size_t count = 0;
  for (; !text.empty(); ++count) text.remove_prefix(utf8_step(text).length);
  return count;
}

std::vector<std::size_t> character_starts(std::string_view text) {
  std::vector<std::size_t> starts;
  std::size_t at = 0;
  for (; at < text.size(); at += utf8_step(text.substr(at)).length) starts.push_back(at);
  starts.push_back(at);
  return starts;
}

std::string_view strip(std::string_view text, const std::string* chars, bool left, bool right) {
  const auto goes = [&](std::string_view character) {
    const Utf8Step step = utf8_step(character);
    return chars != nullptr ? chars->find(character) != std::string::npos
                            : step.kind == Utf8Step::Kind::kCharacter && is_space(step.code);
  };
  while (left && !text.empty()) {
    const std::size_t length = utf8_step(text).length;
    if (!goes(text.substr(0, length))) break;
    text.remove_prefix(length);
  }
  while (right && !text.empty()) {
    std::size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!goes(text.substr(begin))) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::string change_case(std::string_view text, bool upper) {
  std::string out;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (step.kind == Utf8Step::Kind::kCharacter) {
      const auto code = static_cast<utf8proc_int32_t>(step.code);
      append_utf8(static_cast<char32_t>(upper ? utf8proc_toupper(code) : utf8proc_tolower(code)), out);
    } else {
      out += text.substr(0, step.length);
    }
    text.remove_prefix(step.length);
  }
  return out;
}

std::string capitalize(std::string_view text, Words words) {
  std::string out;
  bool inside = false;  // of a word
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    out += change_case(text.substr(0, step.length), !inside);
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(step.code));
    switch (words) {
      case Words::kNone:
        inside = true;
        break;
      case Words::kOfLetters:
        inside = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
        break;
      case Words::kOfFilter:
        inside = !is_space(step.code) &&
                 std::u32string_view(U"-({[<").find(step.code) == std::u32string_view::npos;
        break;
    }
    text.remove_prefix(step.length);
  }
  return out;
}

}  // namespace stem::chat
