// Reading results for a report: what is absent or null is simply not shown, what has the wrong type is an
// Error.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace stem {

// All throw kFormat naming the field when it is there with another type.

/// NaN when absent; JSON null, which is how NaN and infinity are written, reads as NaN too.
double number_of(const Json& json, std::string_view key);
/// The values of an array of numbers, null as NaN; empty when absent.
std::vector<double> numbers_of(const Json& json, std::string_view key);
/// Empty when absent.
std::string string_of(const Json& json, std::string_view key);
/// A string, or an array of strings; empty when absent.
std::vector<std::string> strings_of(const Json& json, std::string_view key);
/// Integers of an array; empty when absent.
std::vector<std::int64_t> integers_of(const Json& json, std::string_view key);
/// The object, or null when absent or empty.
const Json* object_of(const Json& json, std::string_view key);
/// The objects of an array; an empty one when absent.
const Json& objects_of(const Json& json, std::string_view key);

}  // namespace stem
