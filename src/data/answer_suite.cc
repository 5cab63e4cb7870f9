#include "data/answer_suite.h"

#include "core/error.h"
#include "data/json_lines.h"

namespace stem {
namespace {

constexpr std::string_view kMark = "#### ", kDigits = "0123456789", kFigure = "0123456789.,",
                           kLoose = "$0123456789.,";

// Length of the run of characters of `set` at `from`.
std::size_t run_of(std::string_view text, std::size_t from, std::string_view set) {
  const std::size_t end = text.find_first_not_of(set, from);
  return (end == std::string_view::npos ? text.size() : end) - from;
}

}  // namespace

std::optional<std::string> strict_answer(std::string_view text) {
  for (std::size_t at = text.find(kMark); at != std::string_view::npos; at = text.find(kMark, at + 1)) {
    const std::size_t first = at + kMark.size(), sign = first < text.size() && text[first] == '-' ? 1 : 0;
    const std::size_t length = first + sign < text.size() ? run_of(text, first + sign, kFigure) : 0;
    if (length > 0) return std::string(text.substr(first, sign + length));
  }
  return std::nullopt;
}

std::optional<std::string> flexible_answer(std::string_view text) {
  std::optional<std::string> last;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t sign = text[at] == '-' ? 1 : 0, first = at + sign;
    std::size_t length = first < text.size() ? run_of(text, first, kLoose) : 0;
    if (length < 2) length = first < text.size() ? run_of(text, first, kDigits) : 0;
    if (length == 0) {
      ++at;
      continue;
    }
    last = std::string(text.substr(at, sign + length));
    at = first + length;
  }
  return last;
}

std::string plain_figure(std::string_view figure) {
  std::string plain;
  for (const char c : figure) {
    if (c != ',' && c != '$' && c != ' ' && c != '\n' && c != '\r') plain += c;
  }
  if (plain.ends_with('.')) plain.pop_back();
  return plain;
}

std::vector<SuiteItem> parse_answers(std::string_view text, std::string_view name) {
  std::vector<SuiteItem> items;
  for_each_json_line(text, name, [&](const Json& line, const std::string& where) {
    SuiteItem item;
    item.where = where;
    const bool has_context = find_field(line, "context", where) != nullptr;
    item.query = get_string(line, has_context ? "context" : "question", where);
    const std::string answer = get_string(line, "answer", where);
    if (const std::size_t mark = answer.rfind(kMark); mark != std::string::npos) {
      item.answer = plain_figure(answer.substr(mark + kMark.size()));
      item.choices.push_back(answer);
    } else {
      item.answer = plain_figure(answer);
      const std::string thought = get_string_or(line, "chain_of_thought", where, "");
      item.choices.push_back(thought + (thought.empty() ? "" : "\n") + std::string(kMark) + answer);
    }
    if (item.answer.find_first_of(kDigits) == std::string::npos)
      fail(ErrorCode::kFormat, "{}: answer: expected a figure, found {}", where, shown(Json(answer)));
    items.push_back(std::move(item));
  });
  if (items.empty()) fail(ErrorCode::kFormat, "{}: expected at least one item, found none", name);
  return items;
}

}  // namespace stem
