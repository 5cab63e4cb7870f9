#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/names.h"
#include "io/gguf.h"
#include "io/gguf_header.h"
#include "io/json.h"

namespace stem {
namespace {

bool is_integer(std::uint32_t type) {
  return type <= gguf::kI32 || type == gguf::kU64 || type == gguf::kI64;
}

bool is_float(std::uint32_t type) {
  return type == gguf::kF32 || type == gguf::kF64;
}

const char* element(const Gguf::Value& value, std::uint64_t i) {
  return value.bytes.data() + i * gguf::kValueTypeInfo[value.type].bytes;
}

// Integer i of a value; nothing for one that an int64 does not hold.
std::optional<std::int64_t> integer_at(const Gguf::Value& value, std::uint64_t i) {
  const std::uint64_t bits = gguf::little_endian(element(value, i), gguf::kValueTypeInfo[value.type].bytes);
  switch (value.type) {
    case gguf::kI8:
      return static_cast<std::int8_t>(bits);
    case gguf::kI16:
      return static_cast<std::int16_t>(bits);
    case gguf::kI32:
      return static_cast<std::int32_t>(bits);
    case gguf::kU64:
      if (bits >> 63 != 0) return std::nullopt;
      return static_cast<std::int64_t>(bits);
    default:
      return static_cast<std::int64_t>(bits);
  }
}

double number_at(const Gguf::Value& value, std::uint64_t i) {
  const std::uint64_t bits = gguf::little_endian(element(value, i), gguf::kValueTypeInfo[value.type].bytes);
  if (value.type == gguf::kF32)
    return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  if (value.type == gguf::kF64) return std::bit_cast<double>(bits);
  if (value.type == gguf::kU64) return static_cast<double>(bits);
  return static_cast<double>(*integer_at(value, i));
}

std::string integer_range(std::int64_t min, std::int64_t max) {
  using Limits = std::numeric_limits<std::int64_t>;
  if (min == Limits::min() && max == Limits::max()) return "an integer";
  if (max == Limits::max()) return fmt::format("an integer of at least {}", min);
  return fmt::format("an integer in [{}, {}]", min, max);
}

}  // namespace

std::string Gguf::Value::described() const {
  const std::string_view name = gguf::kValueTypeInfo[type].name;
  if (is_array) return fmt::format("an array of {} {}s", count, name);
  if (type == gguf::kString) return shown(Json(bytes));
  if (type == gguf::kBool) return bytes[0] != 0 ? "true" : "false";
  if (is_float(type)) return fmt::format("{} {}", name, number_at(*this, 0));
  if (const auto value = integer_at(*this, 0)) return fmt::format("{} {}", name, *value);
  return fmt::format("{} {}", name, gguf::little_endian(bytes.data(), bytes.size()));
}

const Gguf::Value* Gguf::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

const Gguf::Value& Gguf::at(std::string_view key, std::string_view expected) const {
  if (const Value* value = find(key)) return *value;
  fail(ErrorCode::kFormat, "{}: {}: expected {}, found nothing{}", path(), key, expected,
       did_you_mean(key, keys()));
}

void Gguf::wrong(std::string_view key, std::string_view expected) const {
  fail(ErrorCode::kFormat, "{}: {}: expected {}, found {}", path(), key, expected, described(key));
}

std::string Gguf::described(std::string_view key) const {
  const Value* value = find(key);
  return value == nullptr ? "nothing" : value->described();
}

std::vector<std::string> Gguf::keys() const {
  std::vector<std::string> result;
  for (const auto& [key, value] : values_) result.push_back(key);
  return result;
}

const std::string& Gguf::text(std::string_view key) const {
  at(key, "a text");
  return *find_text(key);
}

bool Gguf::flag(std::string_view key) const {
  at(key, "true or false");
  return *find_flag(key);
}

std::int64_t Gguf::integer(std::string_view key, std::int64_t min, std::int64_t max) const {
  at(key, integer_range(min, max));
  return *find_integer(key, min, max);
}

double Gguf::number(std::string_view key) const {
  at(key, "a finite number");
  return *find_number(key);
}

const std::vector<std::string>& Gguf::strings(std::string_view key) const {
  at(key, "an array of texts");
  return *find_strings(key);
}

std::vector<std::int64_t> Gguf::integers(std::string_view key) const {
  at(key, "an array of integers");
  return *find_integers(key);
}

std::vector<double> Gguf::numbers(std::string_view key) const {
  at(key, "an array of numbers");
  return *find_numbers(key);
}

const std::string* Gguf::find_text(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return nullptr;
  if (value->is_array || value->type != gguf::kString) wrong(key, "a text");
  return &value->bytes;
}

std::optional<bool> Gguf::find_flag(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_array || value->type != gguf::kBool) wrong(key, "true or false");
  return value->bytes[0] != 0;
}

std::optional<std::int64_t> Gguf::find_integer(std::string_view key, std::int64_t min,
                                               std::int64_t max) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::optional<std::int64_t> found;
  if (!value->is_array && is_integer(value->type)) found = integer_at(*value, 0);
  if (!found || *found < min || *found > max) wrong(key, integer_range(min, max));
  return found;
}

std::optional<double> Gguf::find_number(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  const bool typed = !value->is_array && (is_integer(value->type) || is_float(value->type));
  if (!typed || !std::isfinite(number_at(*value, 0))) wrong(key, "a finite number");
  return number_at(*value, 0);
}

const std::vector<std::string>* Gguf::find_strings(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_array || value->type != gguf::kString) wrong(key, "an array of texts");
  return &value->strings;
}

std::optional<std::vector<std::int64_t>> Gguf::find_integers(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array || !is_integer(value->type)) wrong(key, "an array of integers");
  std::vector<std::int64_t> result;
  result.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto found = integer_at(*value, i);
    if (!found) {
      fail(ErrorCode::kFormat, "{}: {}: expected integers below 2^63, found {} at index {}", path(), key,
           gguf::little_endian(element(*value, i), 8), i);
    }
    result.push_back(*found);
  }
  return result;
}

std::optional<std::vector<double>> Gguf::find_numbers(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array || !(is_integer(value->type) || is_float(value->type))) {
    wrong(key, "an array of numbers");
  }
  std::vector<double> result;
  result.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) result.push_back(number_at(*value, i));
  return result;
}

}  // namespace stem
