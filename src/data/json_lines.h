// JSON Lines: an object a line.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace stem {

/// Calls `use(object, where)` for every line that is not blank; `where` is "NAME: line N", for errors.
/// kFormat names the line that is no JSON object.
void for_each_json_line(std::string_view text, std::string_view name,
                        const std::function<void(const Json&, const std::string&)>& use);

/// Whether there is nothing but white space.
bool is_blank_text(std::string_view text);

}  // namespace stem
