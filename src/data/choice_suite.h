// Multiple choice in three forms: JSON Lines, MMLU's CSV, HellaSwag's text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/suite_item.h"

namespace stem {

/// {"query": text, "choices": [text, …], "gold": index}, one a line. All three parsers throw kFormat with
/// `name`, line, field, expected and found: fewer than two choices, an empty choice, gold out of range, no
/// item at all.
std::vector<SuiteItem> parse_choice_lines(std::string_view text, std::string_view name);

/// question, four choices, the answer as A … D or 0 … 3; a header line is skipped. `subject` goes to every
/// item.
std::vector<SuiteItem> parse_mmlu(std::string_view text, std::string_view name, const std::string& subject);

/// Six lines an item: the context, the gold index 0 … 3, four endings.
std::vector<SuiteItem> parse_hellaswag(std::string_view text, std::string_view name);

/// An MMLU item as the model sees it: the question, "A. …" to "D. …" on lines of their own, "Answer:".
std::string mmlu_question(const SuiteItem& item);
/// "The following are multiple choice questions (with answers) about SUBJECT.\n\n", underscores as spaces.
std::string mmlu_heading(std::string_view subject);

}  // namespace stem
