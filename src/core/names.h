// Names that users type: suggestions for the ones we do not know.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace stem {

/// The member of `known` with the smallest edit distance (insert, delete, replace, swap of neighbours; letter
/// case aside) to `word`; empty if none is near enough (more than a third of the word, at least 2, would
/// change) or there are more than 10,000 of them.
std::string nearest(std::string_view word, std::span<const std::string> known);

/// " (did you mean \"x\"?)" or an empty string: to append to an error message.
std::string did_you_mean(std::string_view word, std::span<const std::string> known);

}  // namespace stem
