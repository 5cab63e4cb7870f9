#include "data/csv.h"

#include <algorithm>

#include "core/error.h"

namespace stem {
namespace {
constexpr std::size_t kMaxFields = 4096;
}

CsvReader::CsvReader(std::string_view text, std::string_view name) : rest_(text), name_(name) {
  if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
}

// Behind the opening quote: up to the closing one, which is consumed.
std::string CsvReader::quoted() {
  const std::int64_t opened = line_;
  std::string field;
  while (true) {
    const std::size_t end = rest_.find('"');
    if (end == std::string_view::npos) {
      fail(ErrorCode::kFormat, "{}: line {}: expected a closing double quote, found the end of the file",
           name_, opened);
    }
    line_ += std::count(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(end), '\n');
    field += rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    if (!rest_.starts_with('"')) return field;
    field += '"';
    rest_.remove_prefix(1);
  }
}

std::string CsvReader::plain() {
  const std::size_t end = std::min(rest_.find_first_of(",\n"), rest_.size());
  std::string field(rest_.substr(0, end));
  const bool at_line_end = end == rest_.size() || rest_[end] == '\n';
  rest_.remove_prefix(end);
  if (at_line_end && field.ends_with('\r')) field.pop_back();
  return field;
}

std::optional<CsvRecord> CsvReader::next() {
  while (rest_.starts_with('\n') || rest_.starts_with("\r\n")) {
    rest_.remove_prefix(rest_.front() == '\r' ? 2 : 1);
    ++line_;
  }
  if (rest_.empty()) return std::nullopt;
  CsvRecord record{{}, line_};
  while (true) {
    if (record.fields.size() == kMaxFields) {
      fail(ErrorCode::kFormat, "{}: line {}: expected at most {} fields, found more", name_, record.line,
           kMaxFields);
    }
    if (rest_.starts_with('"')) {
      rest_.remove_prefix(1);
      record.fields.push_back(quoted());
      if (rest_.starts_with("\r\n")) rest_.remove_prefix(1);
      if (!rest_.empty() && rest_.front() != ',' && rest_.front() != '\n') {
        fail(ErrorCode::kFormat,
             "{}: line {}: field {}: expected a comma or the line's end behind the quotes", name_, line_,
             record.fields.size());
      }
    } else {
      record.fields.push_back(plain());
    }
    if (rest_.empty()) return record;
    const char mark = rest_.front();
    rest_.remove_prefix(1);
    if (mark == ',') continue;
    ++line_;
    return record;
  }
}

}  // namespace stem
