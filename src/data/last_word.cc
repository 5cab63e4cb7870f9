#include "data/last_word.h"

#include "core/error.h"
#include "data/json_lines.h"

namespace stem {

std::vector<SuiteItem> parse_last_word(std::string_view text, std::string_view name) {
  std::vector<SuiteItem> items;
  for_each_json_line(text, name, [&](const Json& line, const std::string& where) {
    SuiteItem item;
    item.where = where;
    item.query = get_string(line, "context", where);
    item.choices.push_back(get_string(line, "continuation", where));
    if (is_blank_text(item.choices.front()))
      fail(ErrorCode::kFormat, "{}: continuation: expected a text, found an empty one", where);
    items.push_back(std::move(item));
  });
  if (items.empty()) fail(ErrorCode::kFormat, "{}: expected at least one item, found none", name);
  return items;
}

}  // namespace stem
