#include "text/chat_template_calls.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>

#include "text/utf8.h"

namespace stem::chat {
namespace {

Value dict_items(const DictBox& dict, Meter& meter) {
  List items;
  for (const auto& [key, value] : dict.entries) {
    items.push_back(make_list({meter.text(key), value}, true));
  }
  return meter.list(std::move(items));
}

// `attribute` may go down: "function.name". What is undefined on the way becomes `otherwise`, if given.
Value attribute_of(const Value& value, const std::string& attribute, Meter& meter,
                   const Value* otherwise = nullptr) {
  Value found = value;
  std::string_view rest = attribute;
  for (;;) {
    const std::size_t dot = rest.find('.');
    found = item(found, meter.text(std::string(rest.substr(0, dot))), meter);
    if (otherwise != nullptr && found.is<Undefined>()) found = *otherwise;
    if (dot == std::string_view::npos) return found;
    rest.remove_prefix(dot + 1);
  }
}

// select, reject, selectattr, rejectattr: ([attribute], [test], arguments of the test).
Value selected(std::string_view name, const Value& value, const Arguments& arguments, Meter& meter) {
  const bool by_attribute = name.ends_with("attr"), keep = name.starts_with("select");
  if (!arguments.named.empty()) refuse("{}: unsupported: an argument by name", name);
  List rest = arguments.positional;
  const auto take = [&] {
    const std::string first = string_argument(rest.front(), name);
    rest.erase(rest.begin());
    return first;
  };
  if (by_attribute && rest.empty()) refuse("{}: expected the name of an attribute", name);
  const std::string attribute = by_attribute ? take() : "";
  const std::string test = rest.empty() ? "" : take();
  const Arguments test_arguments{std::move(rest), {}};
  List out;
  for (const Value& element : elements(value, meter)) {
    meter.step();
    const Value tested = by_attribute ? attribute_of(element, attribute, meter) : element;
    if ((test.empty() ? truthy(tested) : apply_test(test, tested, test_arguments)) == keep) {
      out.push_back(element);
    }
  }
  return meter.list(std::move(out));
}

// map("filter", arguments of it) or map(attribute="name", default=value).
Value mapped(const Value& value, const Arguments& arguments, Meter& meter) {
  List out;
  if (arguments.positional.empty()) {
    const auto given = arguments.bind("map", {"attribute", "default"}, 1);
    const std::string& attribute = string_argument(*given[0], "map");
    for (const Value& element : elements(value, meter)) {
      out.push_back(attribute_of(element, attribute, meter, given[1]));
    }
    return meter.list(std::move(out));
  }
  const std::string filter = string_argument(arguments.positional[0], "map");
  const Arguments rest{List(arguments.positional.begin() + 1, arguments.positional.end()), arguments.named};
  for (const Value& element : elements(value, meter)) {
    meter.step();
    out.push_back(apply_filter(filter, element, rest, meter));
  }
  return meter.list(std::move(out));
}

Value to_integer(const Value& value, const Value& otherwise) {
  std::int64_t integer = 0;
  if (value.as_integer(integer)) return Value::integer(integer);
  if (value.is<double>() && std::abs(value.as_double()) < 9e18) {
    return Value::integer(static_cast<std::int64_t>(value.as_double()));
  }
  if (const std::string* text = value.as_text()) {
    const std::string_view digits = strip(*text, nullptr, true, true);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), integer);
    if (error == std::errc() && end == digits.data() + digits.size()) return Value::integer(integer);
  }
  return otherwise;
}

Value reversed(const Value& value, Meter& meter) {
  List items = elements(value, meter);
  std::reverse(items.begin(), items.end());
  return value.as_text() != nullptr ? join_list(items, "", meter) : meter.list(std::move(items));
}

}  // namespace

std::vector<const Value*> Arguments::bind(std::string_view callee,
                                          std::initializer_list<std::string_view> parameters,
                                          std::size_t required) const {
  if (positional.size() > parameters.size()) {
    refuse("{}: expected at most {} arguments, found {}", callee, parameters.size(), positional.size());
  }
  std::vector<const Value*> bound(parameters.size(), nullptr);
  for (std::size_t i = 0; i < positional.size(); ++i) bound[i] = &positional[i];
  for (const auto& [name, value] : named) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end()) refuse("{}: unsupported: the argument {}", callee, name);
    bound[static_cast<std::size_t>(found - parameters.begin())] = &value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (bound[i] == nullptr) refuse("{}: the argument {} is missing", callee, parameters.begin()[i]);
  }
  return bound;
}

std::string text_of(const Value& value) {
  std::string out;
  if (!to_text(value, out)) refuse("unsupported: {} as text", kind_of(value));
  return out;
}

List elements(const Value& value, Meter& meter) {
  List out;
  if (const ListBox* list = value.as_list()) {
    out = list->items;
  } else if (const DictBox* dict = value.as_dict()) {
    for (const auto& entry : dict->entries) out.push_back(meter.text(entry.first));
  } else if (const std::string* text = value.as_text()) {
    for (std::string_view rest = *text; !rest.empty();) {
      const std::size_t length = utf8_step(rest).length;
      meter.bytes(sizeof(Value));
      out.push_back(meter.text(std::string(rest.substr(0, length))));
      rest.remove_prefix(length);
    }
  } else if (!value.is<Undefined>()) {
    refuse("cannot go through {}", kind_of(value));
  }
  meter.bytes(out.size() * sizeof(Value));
  return out;
}

bool contains(const Value& whole, const Value& part, Meter& meter) {
  if (const std::string* text = whole.as_text()) {
    return text->find(string_argument(part, "in")) != std::string::npos;
  }
  if (const DictBox* dict = whole.as_dict()) {
    return part.as_text() != nullptr && dict->find(*part.as_text()) != nullptr;
  }
  const List items = elements(whole, meter);
  return std::any_of(items.begin(), items.end(), [&](const Value& v) {
    meter.step();
    return equal(v, part);
  });
}

int order(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    std::int64_t i = 0, j = 0;
    if (a.as_integer(i) && b.as_integer(j)) return i < j ? -1 : i > j;
    return a.as_double() < b.as_double() ? -1 : a.as_double() > b.as_double();
  }
  const std::string *left = a.as_text(), *right = b.as_text();
  if (left == nullptr || right == nullptr) refuse("cannot order {} and {}", kind_of(a), kind_of(b));
  const int sign = left->compare(*right);
  return sign < 0 ? -1 : sign > 0;
}

Value member(const Value& object, std::string_view name) {
  if (const auto* missing = std::get_if<Undefined>(&object.data)) refuse("{} is undefined", missing->name);
  if (const Space* space = object.as_space()) {
    for (const auto& [key, value] : space->entries) {
      if (key == name) return value;
    }
  }
  if (const DictBox* dict = object.as_dict()) {
    constexpr auto kMethods = std::to_array<std::string_view>(
        {"items", "keys", "values", "get", "copy", "pop", "popitem", "update", "clear", "setdefault"});
    if (std::find(kMethods.begin(), kMethods.end(), name) != kMethods.end()) {
      refuse("unsupported: the method {} of a dict as a value (an item is written [\"{}\"])", name, name);
    }
    if (const Value* found = dict->find(name)) return *found;
  }
  return Value::undefined(fmt::format("the member {}", name));
}

Value item(const Value& object, const Value& key, Meter& meter) {
  if (const auto* missing = std::get_if<Undefined>(&object.data)) refuse("{} is undefined", missing->name);
  if (const std::string* name = key.as_text()) {
    if (const DictBox* dict = object.as_dict()) {
      const Value* found = dict->find(*name);
      return found != nullptr ? *found : Value::undefined(fmt::format("the item {}", shown(*name)));
    }
    return member(object, *name);
  }
  std::int64_t index = 0;
  if (!key.as_integer(index)) return Value::undefined(fmt::format("an item by {}", kind_of(key)));
  const auto place = [&](std::size_t size) {  // or size
    const auto count = static_cast<std::int64_t>(size);
    if (index < 0) index += count;
    return index < 0 || index >= count ? size : static_cast<std::size_t>(index);
  };
  if (const ListBox* list = object.as_list()) {
    const std::size_t at = place(list->items.size());
    if (at < list->items.size()) return list->items[at];
  } else if (const std::string* text = object.as_text()) {
    meter.bytes(text->size());
    const std::vector<std::size_t> starts = character_starts(*text);
    const std::size_t at = place(starts.size() - 1);
    if (at + 1 < starts.size()) return Value::text(text->substr(starts[at], starts[at + 1] - starts[at]));
  }
  return Value::undefined(fmt::format("the item {}", index));
}

Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Meter& meter) {
  if (name == "trim") {
    const auto given = arguments.bind(name, {"chars"}, 0);
    const std::string text = text_of(value);
    return meter.text(std::string(strip(text, optional_string(given[0], name), true, true)));
  }
  if (name == "default" || name == "d") {
    const auto given = arguments.bind(name, {"default_value", "boolean"}, 0);
    const bool by_truth = given[1] != nullptr && truthy(*given[1]);
    if (!value.is<Undefined>() && !(by_truth && !truthy(value))) return value;
    return given[0] != nullptr ? *given[0] : Value::text("");
  }
  if (name == "tojson") {
    const auto given = arguments.bind(name, {"indent", "ensure_ascii"}, 0);
    if (given[1] != nullptr && truthy(*given[1])) refuse("tojson: unsupported: ensure_ascii");
    const bool indented = given[0] != nullptr && !given[0]->is<None>();
    const std::int64_t indent = indented ? integer_argument(*given[0], name) : -1;
    if (indent > 16) refuse("tojson: expected an indent of at most 16, found {}", indent);
    std::string out;
    if (!to_json_text(value, static_cast<int>(indent), out)) refuse("tojson: {} is no JSON", kind_of(value));
    return meter.text(std::move(out));
  }
  if (name == "join") {
    const auto given = arguments.bind(name, {"d", "attribute"}, 0);
    List items = elements(value, meter);
    if (given[1] != nullptr) {
      const std::string& attribute = string_argument(*given[1], name);
      for (Value& element : items) element = attribute_of(element, attribute, meter);
    }
    return join_list(items, given[0] != nullptr ? text_of(*given[0]) : "", meter);
  }
  if (name == "replace") {
    const auto given = arguments.bind(name, {"old", "new", "count"}, 2);
    return Value::text(replace_text(text_of(value), string_argument(*given[0], name),
                                    string_argument(*given[1], name),
                                    given[2] != nullptr ? integer_argument(*given[2], name) : -1, meter));
  }
  if (name == "int") {
    const auto given = arguments.bind(name, {"default"}, 0);
    return to_integer(value, given[0] != nullptr ? *given[0] : Value::integer(0));
  }
  if (name == "map") return mapped(value, arguments, meter);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") {
    return selected(name, value, arguments, meter);
  }
  constexpr auto kPlain =
      std::to_array<std::string_view>({"length", "count", "upper", "lower", "capitalize", "title", "first",
                                       "last", "list", "string", "items", "reverse", "safe"});
  if (std::find(kPlain.begin(), kPlain.end(), name) == kPlain.end()) {
    refuse("unsupported: the filter {}", name);
  }
  arguments.bind(name, {}, 0);
  if (name == "length" || name == "count") {
    if (const std::string* text = value.as_text()) {
      meter.bytes(text->size());
      return Value::integer(static_cast<std::int64_t>(character_count(*text)));
    }
    return Value::integer(static_cast<std::int64_t>(elements(value, meter).size()));
  }
  if (name == "upper" || name == "lower") return meter.text(change_case(text_of(value), name == "upper"));
  if (name == "capitalize") return meter.text(capitalize(text_of(value), Words::kNone));
  if (name == "title") return meter.text(capitalize(text_of(value), Words::kOfFilter));
  if (name == "string") return meter.text(text_of(value));
  if (name == "safe") return value;
  if (name == "reverse") return reversed(value, meter);
  if (name == "items") {
    if (value.is<Undefined>()) return meter.list({});
    if (value.as_dict() == nullptr) refuse("items: expected a dict, found {}", kind_of(value));
    return dict_items(*value.as_dict(), meter);
  }
  List items = elements(value, meter);
  if (name == "list") return meter.list(std::move(items));
  if (items.empty()) return Value::undefined(fmt::format("the {} of nothing", name));
  return name == "first" ? items.front() : items.back();
}

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments) {
  const auto other = [&]() -> const Value& { return *arguments.bind(name, {"other"}, 1)[0]; };
  if (name == "eq" || name == "equalto" || name == "==" || name == "sameas") return equal(value, other());
  if (name == "ne" || name == "!=") return !equal(value, other());
  if (name == "lt" || name == "lessthan" || name == "<") return order(value, other()) < 0;
  if (name == "le" || name == "<=") return order(value, other()) <= 0;
  if (name == "gt" || name == "greaterthan" || name == ">") return order(value, other()) > 0;
  if (name == "ge" || name == ">=") return order(value, other()) >= 0;
  if (name == "in") {
    Meter meter;
    return contains(other(), value, meter);
  }
  if (name == "divisibleby") {
    const std::int64_t divisor = integer_argument(other(), name);
    if (divisor == 0) refuse("divisibleby: 0");
    return divisor == -1 || integer_argument(value, name) % divisor == 0;
  }
  arguments.bind(name, {}, 0);
  if (name == "defined") return !value.is<Undefined>();
  if (name == "undefined") return value.is<Undefined>();
  if (name == "none") return value.is<None>();
  if (name == "string") return value.as_text() != nullptr;
  if (name == "mapping") return value.as_dict() != nullptr;
  if (name == "iterable" || name == "sequence") {
    return value.as_text() != nullptr || value.as_list() != nullptr || value.as_dict() != nullptr ||
           value.is<Undefined>();
  }
  if (name == "number") return value.is_number();
  if (name == "integer") return value.is<std::int64_t>();
  if (name == "float") return value.is<double>();
  if (name == "boolean") return value.is<bool>();
  if (name == "true" || name == "false") return value.is<bool>() && truthy(value) == (name == "true");
  if (name == "even") return integer_argument(value, name) % 2 == 0;
  if (name == "odd") return integer_argument(value, name) % 2 != 0;
  if (name == "lower" || name == "upper") {
    const std::string text = text_of(value);
    return change_case(text, name == "upper") == text && change_case(text, name != "upper") != text;
  }
  refuse("unsupported: the test {}", name);
}

Value call_method(const Value& object, std::string_view name, const Arguments& arguments, Meter& meter) {
  if (const auto* missing = std::get_if<Undefined>(&object.data)) refuse("{} is undefined", missing->name);
  if (const std::string* text = object.as_text()) return string_method(*text, name, arguments, meter);
  if (const DictBox* dict = object.as_dict()) {
    if (name == "get") {
      const auto given = arguments.bind(name, {"key", "default"}, 1);
      const std::string* key = given[0]->as_text();
      const Value* found = key != nullptr ? dict->find(*key) : nullptr;
      if (found != nullptr) return *found;
      return given[1] != nullptr ? *given[1] : Value::none();
    }
    if (name == "items" || name == "keys" || name == "values") {
      arguments.bind(name, {}, 0);
      if (name == "items") return dict_items(*dict, meter);
      if (name == "keys") return meter.list(elements(object, meter));
      List values;
      for (const auto& entry : dict->entries) values.push_back(entry.second);
      return meter.list(std::move(values));
    }
  }
  refuse("unsupported: the method {} of {}", name, kind_of(object));
}

bool is_function(std::string_view name) {
  constexpr auto kFunctions =
      std::to_array<std::string_view>({"raise_exception", "strftime_now", "range", "namespace", "dict"});
  return std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end();
}

Value call_function(std::string_view name, const Arguments& arguments, std::time_t now, Meter& meter) {
  if (name == "raise_exception") {
    throw Fault{ErrorCode::kMismatch, text_of(*arguments.bind(name, {"message"}, 1)[0])};
  }
  if (name == "strftime_now") {
    const std::string& format = string_argument(*arguments.bind(name, {"format"}, 1)[0], name);
    if (format.size() > 100) refuse("strftime_now: expected a format of at most 100 bytes");
    std::tm parts{};
    ::gmtime_r(&now, &parts);
    std::array<char, 4096> text{};
    const std::size_t length = std::strftime(text.data(), text.size(), format.c_str(), &parts);
    return meter.text(std::string(text.data(), length));
  }
  if (name == "range") {
    const auto given = arguments.bind(name, {"start", "stop", "step"}, 1);
    const bool from_zero = given[1] == nullptr;
    const std::int64_t start = from_zero ? 0 : integer_argument(*given[0], name);
    const std::int64_t stop = integer_argument(*given[from_zero ? 0 : 1], name);
    const std::int64_t step = given[2] != nullptr ? integer_argument(*given[2], name) : 1;
    constexpr std::int64_t kMost = 100'000;
    for (const std::int64_t bound : {start, stop, step}) {
      if (bound < -kMost || bound > kMost) refuse("range: expected at most {}, found {}", kMost, bound);
    }
    if (step == 0) refuse("range: the step is 0");
    List items;
    for (std::int64_t i = start; step > 0 ? i < stop : i > stop; i += step)
      items.push_back(Value::integer(i));
    return meter.list(std::move(items));
  }
  if (name == "namespace" || name == "dict") {
    Entries entries;
    if (!arguments.positional.empty()) {
      const DictBox* given = arguments.positional.size() == 1 ? arguments.positional[0].as_dict() : nullptr;
      if (given == nullptr) refuse("{}: expected a dict or arguments by name", name);
      entries = given->entries;
    }
    for (const auto& [key, value] : arguments.named) {
      const auto same =
          std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.first == key; });
      if (same != entries.end()) {
        same->second = value;
      } else {
        entries.emplace_back(key, value);
      }
    }
    Value checked = make_dict(std::move(entries));
    if (name == "dict") return checked;
    return {std::make_shared<Space>(Space{checked.as_dict()->entries})};
  }
  refuse("unsupported: the function {}", name);
}

}  // namespace stem::chat
