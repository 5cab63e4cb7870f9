// Suites with a figure as the answer (GSM8K): how items are read and how a figure is found in a text.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/suite_item.h"

namespace stem {

/// {"context" or "question": text, "answer": figure, "chain_of_thought": text if there is one}, or GSM8K's
/// own
/// {"question", "answer": "… #### figure"}; one a line. The item's only choice is the worked solution that a
/// few-shot prompt shows, its last line "#### figure". kFormat with `name`, line, field, expected and found.
std::vector<SuiteItem> parse_answers(std::string_view text, std::string_view name);

/// The figure behind the first "#### " of a text: digits, dots and commas, a minus sign before them allowed.
/// What lm-eval's filter `strict-match` picks by `#### (\-?[0-9\.\,]+)`.
std::optional<std::string> strict_answer(std::string_view text);

/// The last thing that looks like a figure: two or more of digits, dots, commas and dollar signs, or one
/// digit or more; a minus sign before them allowed. lm-eval's `flexible-extract`:
/// `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
std::optional<std::string> flexible_answer(std::string_view text);

/// A figure as it is compared: without commas, dollar signs, white space and a full stop at the end.
std::string plain_figure(std::string_view figure);

}  // namespace stem
