#include "io/json.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "core/error.h"
#include "core/names.h"

namespace stem {
namespace {

// The keys of one object. Most objects have a handful, and a hash set for each would cost more than the
// parsing.
class KeySet {
 public:
  bool insert(const std::string& key) {
    if (!many_.empty()) return many_.insert(key).second;
    if (std::find(few_.begin(), few_.end(), key) != few_.end()) return false;
    few_.push_back(key);
    if (few_.size() > kFew) {
      many_.insert(few_.begin(), few_.end());
      few_.clear();
    }
    return true;
  }

 private:
  static constexpr std::size_t kFew = 16;
  std::vector<std::string> few_;
  std::unordered_set<std::string> many_;
};

// Builds the value from parser events. The library's own builder neither bounds depth and counts nor refuses
// duplicate keys, and inserts into an ordered object in linear time, which 10^6 keys turn into hours.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view name, const JsonLimits& limits) : name_(name), limits_(limits) {}

  bool null() override { return add(Json(nullptr)) != nullptr; }
  bool boolean(bool value) override { return add(Json(value)) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(Json(value)) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)) != nullptr; }
  bool string(string_t& value) override { return add(Json(std::move(value))) != nullptr; }
  bool binary(binary_t&) override { return false; }  // no JSON text holds any
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return shut(); }
  bool end_array() override { return shut(); }

  bool key(string_t& value) override {
    if (!open_.back().keys.insert(value)) {
      fail(ErrorCode::kFormat, "{}: key {} appears twice in one object", name_, shown(Json(value)));
    }
    open_.back().key = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error …" -> from "syntax
    // error" on
    std::string_view what = error.what();
    if (const auto end = what.find("column "); end != std::string_view::npos) {
      if (const auto colon = what.find(": ", end); colon != std::string_view::npos)
        what.remove_prefix(colon + 2);
    } else if (const auto bracket = what.find("] "); bracket != std::string_view::npos) {
      what.remove_prefix(bracket + 2);
    }
    std::string line(what.substr(0, 200));
    for (char& c : line) {
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
    }
    fail(ErrorCode::kFormat, "{}: byte {}: {}", name_, position == 0 ? 0 : position - 1, line);
  }

  Json take() { return std::move(root_); }

 private:
  struct Open {
    Json* value;
    std::string key;
    KeySet keys;
  };

  Json* add(Json&& value) {
    if (++elements_ > limits_.max_elements) {
      fail(ErrorCode::kFormat, "{}: more than {} values", name_, limits_.max_elements);
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Open& parent = open_.back();
    if (parent.value->is_array()) {
      auto& items = parent.value->get_ref<Json::array_t&>();
      return &items.emplace_back(std::move(value));
    }
    // The object's own emplace searches all keys; duplicates are refused above, so append to its vector.
    auto& members = static_cast<Json::object_t::Container&>(parent.value->get_ref<Json::object_t&>());
    return &members.emplace_back(std::move(parent.key), std::move(value)).second;
  }

  bool open(Json&& value) {
    if (open_.size() >= limits_.max_depth) {
      fail(ErrorCode::kFormat, "{}: nested deeper than {} levels", name_, limits_.max_depth);
    }
    // The pointer stays good while the container is open: only its own last element grows.
    open_.push_back({add(std::move(value)), {}, {}});
    return true;
  }

  bool shut() {
    open_.pop_back();
    return true;
  }

  std::string_view name_;
  JsonLimits limits_;
  Json root_;
  std::vector<Open> open_;
  std::size_t elements_ = 0;
};

[[noreturn]] void wrong(std::string_view name, std::string_view key, const std::string& expected,
                        const Json& found) {
  fail(ErrorCode::kFormat, "{}: {}: expected {}, found {}", name, key, expected, shown(found));
}

const Json& field(const Json& json, std::string_view key, std::string_view name,
                  const std::string& expected) {
  if (const Json* found = find_field(json, key, name)) return *found;
  if (json.contains(std::string(key))) wrong(name, key, expected, Json());
  std::vector<std::string> keys;
  for (const auto& item : json.items()) {
    if (keys.size() < 256) keys.push_back(item.key());
  }
  fail(ErrorCode::kFormat, "{}: {}: expected {}, found nothing{}", name, key, expected,
       did_you_mean(key, keys));
}

std::string int_range(std::int64_t min, std::int64_t max) {
  using Limits = std::numeric_limits<std::int64_t>;
  if (min == Limits::min() && max == Limits::max()) return "an integer";
  if (max == Limits::max()) return fmt::format("an integer of at least {}", min);
  return fmt::format("an integer in [{}, {}]", min, max);
}

std::int64_t int_value(const Json& value, std::string_view key, std::string_view name, std::int64_t min,
                       std::int64_t max) {
  const bool fits =
      value.is_number_integer() &&
      (!value.is_number_unsigned() ||
       value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
  if (!fits || value.get<std::int64_t>() < min || value.get<std::int64_t>() > max) {
    wrong(name, key, int_range(min, max), value);
  }
  return value.get<std::int64_t>();
}

std::string number_range(double min, double max) {
  using Limits = std::numeric_limits<double>;
  if (min == Limits::lowest() && max == Limits::max()) return "a number";
  if (max == Limits::max()) return fmt::format("a number of at least {}", min);
  return fmt::format("a number in [{}, {}]", min, max);
}

}  // namespace

Json parse_json(std::string_view text, std::string_view name, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    fail(ErrorCode::kFormat, "{}: {} bytes, expected at most {}", name, text.size(), limits.max_bytes);
  }
  // The library takes a NUL for the end of the text and would not look at what follows.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    fail(ErrorCode::kFormat, "{}: byte {}: a NUL byte", name, nul);
  }
  Builder builder(name, limits);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) fail(ErrorCode::kFormat, "{}: not JSON", name);
  return builder.take();
}

std::string dump_json(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string shown(const Json& json) {
  if (json.is_structured() && json.size() > 8) {
    return fmt::format("{} of {} entries", json.is_array() ? "an array" : "an object", json.size());
  }
  if (json.is_object()) return fmt::format("an object of {} entries", json.size());
  if (json.is_array()) {
    for (const Json& item : json) {
      if (item.is_structured() || item.is_string()) return fmt::format("an array of {} entries", json.size());
    }
  }
  constexpr std::size_t kShown = 40;
  std::string text;
  if (json.is_string() && json.get_ref<const std::string&>().size() > kShown) {
    // Escaping first would cost the whole string; ASCII output keeps a cut in mid-character harmless.
    text = Json(json.get_ref<const std::string&>().substr(0, kShown))
               .dump(-1, ' ', true, Json::error_handler_t::ignore);
    text.insert(text.size() - 1, "…");
    return text;
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const Json* find_field(const Json& json, std::string_view key, std::string_view name) {
  if (!json.is_object()) fail(ErrorCode::kFormat, "{}: expected an object, found {}", name, shown(json));
  const auto found = json.find(std::string(key));
  return found == json.end() || found->is_null() ? nullptr : &*found;
}

std::int64_t get_int(const Json& json, std::string_view key, std::string_view name, std::int64_t min,
                     std::int64_t max) {
  return int_value(field(json, key, name, int_range(min, max)), key, name, min, max);
}

std::int64_t get_int_or(const Json& json, std::string_view key, std::string_view name, std::int64_t min,
                        std::int64_t max, std::int64_t fallback) {
  return find_field(json, key, name) == nullptr ? fallback : get_int(json, key, name, min, max);
}

double get_number(const Json& json, std::string_view key, std::string_view name, double min, double max) {
  const Json& value = field(json, key, name, number_range(min, max));
  if (!value.is_number()) wrong(name, key, number_range(min, max), value);
  const double number = value.get<double>();
  if (!(number >= min && number <= max)) wrong(name, key, number_range(min, max), value);
  return number;
}

double get_number_or(const Json& json, std::string_view key, std::string_view name, double min, double max,
                     double fallback) {
  return find_field(json, key, name) == nullptr ? fallback : get_number(json, key, name, min, max);
}

bool get_bool(const Json& json, std::string_view key, std::string_view name) {
  const Json& value = field(json, key, name, "true or false");
  if (!value.is_boolean()) wrong(name, key, "true or false", value);
  return value.get<bool>();
}

bool get_bool_or(const Json& json, std::string_view key, std::string_view name, bool fallback) {
  return find_field(json, key, name) == nullptr ? fallback : get_bool(json, key, name);
}

std::string get_string(const Json& json, std::string_view key, std::string_view name, std::size_t max_bytes) {
  const Json& value = field(json, key, name, "a string");
  if (!value.is_string()) wrong(name, key, "a string", value);
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() > max_bytes)
    wrong(name, key, fmt::format("a string of at most {} bytes", max_bytes), value);
  return text;
}

std::string get_string_or(const Json& json, std::string_view key, std::string_view name,
                          std::string_view fallback, std::size_t max_bytes) {
  return find_field(json, key, name) == nullptr ? std::string(fallback)
                                                : get_string(json, key, name, max_bytes);
}

const Json& get_array(const Json& json, std::string_view key, std::string_view name, std::size_t max_size) {
  const Json& value = field(json, key, name, "an array");
  if (!value.is_array()) wrong(name, key, "an array", value);
  if (value.size() > max_size)
    wrong(name, key, fmt::format("an array of at most {} entries", max_size), value);
  return value;
}

const Json& get_object(const Json& json, std::string_view key, std::string_view name, std::size_t max_size) {
  const Json& value = field(json, key, name, "an object");
  if (!value.is_object()) wrong(name, key, "an object", value);
  if (value.size() > max_size)
    wrong(name, key, fmt::format("an object of at most {} entries", max_size), value);
  return value;
}

std::vector<std::int64_t> get_ints(const Json& json, std::string_view key, std::string_view name,
                                   std::int64_t min, std::int64_t max, std::size_t max_size) {
  std::vector<std::int64_t> values;
  for (const Json& item : get_array(json, key, name, max_size)) {
    values.push_back(int_value(item, fmt::format("{}[{}]", key, values.size()), name, min, max));
  }
  return values;
}

void check_keys(const Json& json, std::string_view name, std::span<const std::string> known) {
  if (!json.is_object()) fail(ErrorCode::kFormat, "{}: expected an object, found {}", name, shown(json));
  for (const auto& item : json.items()) {
    if (std::find(known.begin(), known.end(), item.key()) != known.end()) continue;
    fail(ErrorCode::kFormat, "{}: unknown key {}{}", name, shown(Json(item.key())),
         did_you_mean(item.key(), known));
  }
}

}  // namespace stem
