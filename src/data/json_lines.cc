#include "data/json_lines.h"

#include <algorithm>

#include "core/error.h"

namespace stem {

bool is_blank_text(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

void for_each_json_line(std::string_view text, std::string_view name,
                        const std::function<void(const Json&, const std::string&)>& use) {
  for (std::int64_t line = 1; !text.empty(); ++line) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (is_blank_text(row)) continue;
    const std::string where = fmt::format("{}: line {}", name, line);
    const Json object = parse_json(row, where);
    if (!object.is_object())
      fail(ErrorCode::kFormat, "{}: expected an object, found {}", where, shown(object));
    use(object, where);
  }
}

}  // namespace stem
