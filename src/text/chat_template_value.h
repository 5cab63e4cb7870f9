// The values of chat templates, which behave as Python's; for the .cc files of this room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "io/json.h"

namespace stem::chat {

struct Value;
using List = std::vector<Value>;
using Entries = std::vector<std::pair<std::string, Value>>;  // in order of insertion

struct Undefined {
  std::string name;  // what was not there
  bool operator==(const Undefined&) const { return true; }
};
struct None {
  bool operator==(const None&) const = default;
};
struct ListBox {
  List items;
  bool tuple = false;
  int depth = 1;  // of lists and dicts within
};
struct DictBox {
  Entries entries;
  int depth = 1;
  const Value* find(std::string_view key) const;
};
// What namespace() makes: the one thing that can be changed.
struct Space {
  Entries entries;
};

struct Value {
  using Text = std::shared_ptr<const std::string>;
  std::variant<Undefined, None, bool, std::int64_t, double, Text, std::shared_ptr<const ListBox>,
               std::shared_ptr<const DictBox>, std::shared_ptr<Space>>
      data;

  static Value text(std::string s) { return {std::make_shared<const std::string>(std::move(s))}; }
  static Value undefined(std::string name) { return {Undefined{std::move(name)}}; }
  static Value none() { return {None{}}; }
  static Value boolean(bool b) { return {b}; }
  static Value integer(std::int64_t i) { return {i}; }

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data);
  }
  const std::string* as_text() const {
    const Text* found = std::get_if<Text>(&data);
    return found != nullptr ? found->get() : nullptr;
  }
  const ListBox* as_list() const {
    const auto* found = std::get_if<std::shared_ptr<const ListBox>>(&data);
    return found != nullptr ? found->get() : nullptr;
  }
  const DictBox* as_dict() const {
    const auto* found = std::get_if<std::shared_ptr<const DictBox>>(&data);
    return found != nullptr ? found->get() : nullptr;
  }
  Space* as_space() const {
    const auto* found = std::get_if<std::shared_ptr<Space>>(&data);
    return found != nullptr ? found->get() : nullptr;
  }
  /// An int, or a bool as 0 or 1.
  bool as_integer(std::int64_t& out) const;
  bool is_number() const { return is<std::int64_t>() || is<double>() || is<bool>(); }
  double as_double() const;  ///< of a number
};

/// Lists and dicts; a namespace inside, or too deep a nesting, is a std::length_error with what to say of it.
Value make_list(List items, bool tuple = false);
Value make_dict(Entries entries);

Value from_json(const Json& json);
/// Python's json.dumps(value, ensure_ascii=False, indent=indent); indent < 0: in one line. Undefined values
/// and namespaces give false.
bool to_json_text(const Value& value, int indent, std::string& out);

std::string_view kind_of(const Value& value);  ///< for messages: "a string", "a list", …
bool truthy(const Value& value);
bool equal(const Value& a, const Value& b);
/// Python's str(), of what is neither list, dict nor namespace: those give false.
bool to_text(const Value& value, std::string& out);

/// Characters (code points) of a string, and the bytes at which they start, with the end as the last.
std::size_t character_count(std::string_view text);
std::vector<std::size_t> character_starts(std::string_view text);

/// Python's str.strip(chars); white space if `chars` is null.
std::string_view strip(std::string_view text, const std::string* chars, bool left, bool right);
std::string change_case(std::string_view text, bool upper);
/// The first letter in upper case and the others in lower: of the text, or of every word. For Python's
/// str.title, letters make words; for Jinja's filter title, what white space, hyphens and opening brackets
/// cut.
enum class Words { kNone, kOfLetters, kOfFilter };
std::string capitalize(std::string_view text, Words words);

}  // namespace stem::chat
