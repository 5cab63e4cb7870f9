#include "report/fields.h"

#include <cmath>
#include <limits>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::string_view kSource = "results";

[[noreturn]] void wrong(std::string_view key, std::string_view expected, const Json& found) {
  fail(ErrorCode::kFormat, "{}: {}: expected {}, found {}", kSource, key, expected, shown(found));
}

const Json* array_of(const Json& json, std::string_view key) {
  const Json* field = find_field(json, key, kSource);
  if (field != nullptr && !field->is_array()) wrong(key, "an array", *field);
  return field;
}

}  // namespace

double number_of(const Json& json, std::string_view key) {
  const Json* field = find_field(json, key, kSource);
  if (field == nullptr) return std::numeric_limits<double>::quiet_NaN();
  if (!field->is_number()) wrong(key, "a number", *field);
  return field->get<double>();
}

std::vector<double> numbers_of(const Json& json, std::string_view key) {
  std::vector<double> values;
  const Json* field = array_of(json, key);
  if (field == nullptr) return values;
  for (const Json& value : *field) {
    if (!value.is_number() && !value.is_null()) wrong(key, "an array of numbers", value);
    values.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  }
  return values;
}

std::string string_of(const Json& json, std::string_view key) {
  const Json* field = find_field(json, key, kSource);
  if (field == nullptr) return {};
  if (!field->is_string()) wrong(key, "a string", *field);
  return field->get<std::string>();
}

std::vector<std::string> strings_of(const Json& json, std::string_view key) {
  const Json* field = find_field(json, key, kSource);
  if (field == nullptr) return {};
  if (field->is_string()) return {field->get<std::string>()};
  std::vector<std::string> values;
  for (const Json& value : *array_of(json, key)) {
    if (!value.is_string()) wrong(key, "an array of strings", value);
    values.push_back(value.get<std::string>());
  }
  return values;
}

std::vector<std::int64_t> integers_of(const Json& json, std::string_view key) {
  std::vector<std::int64_t> values;
  for (const double value : numbers_of(json, key)) {
    if (!(std::abs(value) < 0x1p53) || value != std::floor(value))
      wrong(key, "an array of integers", Json(value));
    values.push_back(static_cast<std::int64_t>(value));
  }
  return values;
}

const Json* object_of(const Json& json, std::string_view key) {
  const Json* field = find_field(json, key, kSource);
  if (field != nullptr && !field->is_object()) wrong(key, "an object", *field);
  return field == nullptr || field->empty() ? nullptr : field;
}

const Json& objects_of(const Json& json, std::string_view key) {
  static const Json kNone = Json::array();
  const Json* field = array_of(json, key);
  if (field == nullptr) return kNone;
  for (const Json& value : *field) {
    if (!value.is_object()) wrong(key, "an array of objects", value);
  }
  return *field;
}

}  // namespace stem
