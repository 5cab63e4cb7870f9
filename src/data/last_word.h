// Last-word suites (LAMBADA): a context and the one text that must follow.
#pragma once

#include <string_view>
#include <vector>

#include "data/suite_item.h"

namespace stem {

/// {"context": text, "continuation": text}, one a line. The continuation becomes the item's only choice.
/// kFormat with `name`, line, field, expected and found; also without any item.
std::vector<SuiteItem> parse_last_word(std::string_view text, std::string_view name);

}  // namespace stem
