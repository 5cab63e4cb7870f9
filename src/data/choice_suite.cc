#include "data/choice_suite.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "data/csv.h"
#include "data/json_lines.h"
#include "text/utf8.h"

namespace stem {
namespace {

constexpr std::size_t kMaxChoices = 1024, kMmluFields = 6, kHellaswagLines = 6;

void require_items(const std::vector<SuiteItem>& items, std::string_view name) {
  if (items.empty()) fail(ErrorCode::kFormat, "{}: expected at least one item, found none", name);
}

// -1 when `letter` is neither A … D nor 0 … 3.
std::int64_t mmlu_gold(std::string_view letter) {
  if (letter.size() != 1) return -1;
  const char c = letter.front();
  if (c >= 'A' && c <= 'D') return c - 'A';
  return c >= '0' && c <= '3' ? c - '0' : -1;
}

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

std::string_view stripped(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

}  // namespace

std::vector<SuiteItem> parse_choice_lines(std::string_view text, std::string_view name) {
  std::vector<SuiteItem> items;
  for_each_json_line(text, name, [&](const Json& line, const std::string& where) {
    SuiteItem item;
    item.where = where;
    item.query = get_string(line, "query", where);
    for (const Json& choice : get_array(line, "choices", where, kMaxChoices)) {
      if (!choice.is_string() || choice.get_ref<const std::string&>().empty()) {
        fail(ErrorCode::kFormat, "{}: choices[{}]: expected a text, found {}", where, item.choices.size(),
             shown(choice));
      }
      item.choices.push_back(choice.get<std::string>());
    }
    if (item.choices.size() < 2) {
      fail(ErrorCode::kFormat, "{}: choices: expected at least two, found {}", where,
           item.choices.empty() ? "none" : "one");
    }
    item.gold = get_int(line, "gold", where, 0, static_cast<std::int64_t>(item.choices.size()) - 1);
    items.push_back(std::move(item));
  });
  require_items(items, name);
  return items;
}

std::vector<SuiteItem> parse_mmlu(std::string_view text, std::string_view name, const std::string& subject) {
  check_utf8(text, name);
  std::vector<SuiteItem> items;
  CsvReader reader(text, name);
  bool first = true;
  while (auto record = reader.next()) {
    std::vector<std::string>& fields = record->fields;
    const bool heading = first && lower(fields.front()) == "question" && lower(fields.back()) == "answer";
    first = false;
    SuiteItem item;
    item.where = fmt::format("{}: line {}", name, record->line);
    if (fields.size() != kMmluFields) {
      fail(ErrorCode::kFormat, "{}: expected {} columns (question, four choices, answer), found {}",
           item.where, kMmluFields, fields.size());
    }
    if (heading) continue;
    item.gold = mmlu_gold(stripped(fields.back()));
    if (item.gold < 0) {
      fail(ErrorCode::kFormat, "{}: answer: expected A, B, C, D or 0 to 3, found {}", item.where,
           shown(Json(fields.back())));
    }
    item.query = std::move(fields.front());
    item.choices.assign(std::make_move_iterator(fields.begin() + 1),
                        std::make_move_iterator(fields.end() - 1));
    item.subject = subject;
    items.push_back(std::move(item));
  }
  require_items(items, name);
  return items;
}

std::vector<SuiteItem> parse_hellaswag(std::string_view text, std::string_view name) {
  check_utf8(text, name);
  std::vector<SuiteItem> items;
  std::array<std::string_view, kHellaswagLines> rows;
  std::size_t have = 0;
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (row.ends_with('\r')) row.remove_suffix(1);
    if (have == 0 && row.empty() && is_blank_text(text)) break;  // empty lines at the end
    rows[have++] = row;
    if (have == 2 && (row.size() != 1 || row[0] < '0' || row[0] > '3')) {
      fail(ErrorCode::kFormat, "{}: line {}: gold: expected 0, 1, 2 or 3, found {}", name, line,
           shown(Json(std::string(row))));
    }
    if (have > 2 && row.empty()) {
      fail(ErrorCode::kFormat, "{}: line {}: ending {}: expected a text, found an empty line", name, line,
           have - 3);
    }
    if (have < kHellaswagLines) continue;
    SuiteItem item;
    item.where = fmt::format("{}: line {}", name, line - static_cast<std::int64_t>(kHellaswagLines) + 1);
    item.query = rows[0];
    item.gold = rows[1][0] - '0';
    item.choices.assign(rows.begin() + 2, rows.end());
    items.push_back(std::move(item));
    have = 0;
  }
  if (have != 0) {
    fail(ErrorCode::kFormat,
         "{}: expected six lines an item (context, gold, four endings), found {} at the end", name, have);
  }
  require_items(items, name);
  return items;
}

std::string mmlu_question(const SuiteItem& item) {
  std::string text(stripped(item.query));
  for (std::size_t i = 0; i < item.choices.size(); ++i) {
    text += fmt::format("\n{}. {}", static_cast<char>('A' + i), item.choices[i]);
  }
  return text + "\nAnswer:";
}

std::string mmlu_heading(std::string_view subject) {
  std::string words(subject);
  std::replace(words.begin(), words.end(), '_', ' ');
  return fmt::format("The following are multiple choice questions (with answers) about {}.\n\n", words);
}

}  // namespace stem
