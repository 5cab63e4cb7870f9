// JSON from outside: bounded, strict, and with errors that name the file and the field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stem {

/// Keeps the order of keys. Looking a key up is linear: iterate over large objects (a vocabulary) instead.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  std::size_t max_bytes = std::size_t{64} << 20;
  std::size_t max_depth = 64;            ///< nested arrays and objects
  std::size_t max_elements = 4'000'000;  ///< values of any kind, in all
};

/// Parses one JSON text (RFC 8259). Refused with kFormat, `name: byte N: …`: syntax errors, bytes after the
/// value, ill-formed UTF-8, lone surrogates, duplicate keys (compared after unescaping), numbers out of a
/// double's range, and whatever exceeds `limits`. Time and memory are linear in the text.
Json parse_json(std::string_view text, std::string_view name, const JsonLimits& limits = {});

/// Two-space indented text with a final newline; the same value gives the same bytes.
std::string dump_json(const Json& json);

/// The member `key` of object `json`, or null if it is absent or JSON null. Errors if `json` is no object.
const Json* find_field(const Json& json, std::string_view key, std::string_view name);

// Fields of an object. A missing or wrong one is kFormat, for example
//   config.json: hidden_size: expected an integer in [1, 65536], found "abc"
// The forms with a fallback return it when the field is absent or null.
std::int64_t get_int(const Json& json, std::string_view key, std::string_view name,
                     std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                     std::int64_t max = std::numeric_limits<std::int64_t>::max());
std::int64_t get_int_or(const Json& json, std::string_view key, std::string_view name, std::int64_t min,
                        std::int64_t max, std::int64_t fallback);
double get_number(const Json& json, std::string_view key, std::string_view name,
                  double min = std::numeric_limits<double>::lowest(),
                  double max = std::numeric_limits<double>::max());
double get_number_or(const Json& json, std::string_view key, std::string_view name, double min, double max,
                     double fallback);
bool get_bool(const Json& json, std::string_view key, std::string_view name);
bool get_bool_or(const Json& json, std::string_view key, std::string_view name, bool fallback);
/// At most `max_bytes` long.
std::string get_string(const Json& json, std::string_view key, std::string_view name,
                       std::size_t max_bytes = std::size_t{1} << 20);
std::string get_string_or(const Json& json, std::string_view key, std::string_view name,
                          std::string_view fallback, std::size_t max_bytes = std::size_t{1} << 20);
/// The array or object itself; at most `max_size` entries.
const Json& get_array(const Json& json, std::string_view key, std::string_view name,
                      std::size_t max_size = std::numeric_limits<std::size_t>::max());
const Json& get_object(const Json& json, std::string_view key, std::string_view name,
                       std::size_t max_size = std::numeric_limits<std::size_t>::max());
/// An array of integers, each in [min, max].
std::vector<std::int64_t> get_ints(const Json& json, std::string_view key, std::string_view name,
                                   std::int64_t min, std::int64_t max,
                                   std::size_t max_size = std::numeric_limits<std::size_t>::max());

/// Refuses keys that are not in `known`, with the nearest known one as a suggestion.
void check_keys(const Json& json, std::string_view name, std::span<const std::string> known);

/// A value as error messages show it: compact, cut after about 40 bytes.
std::string shown(const Json& json);

}  // namespace stem
