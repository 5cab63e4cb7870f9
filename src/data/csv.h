// Comma-separated values as spreadsheets and Python's csv module write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stem {

/// Fields of one record, and the line (1-based) on which it starts.
struct CsvRecord {
  std::vector<std::string> fields;
  std::int64_t line = 0;
};

/// Reads record by record (RFC 4180): fields in double quotes may hold commas, line breaks and doubled
/// quotes; lines end in LF or CRLF; a quote that does not open a field stands for itself; empty lines are
/// skipped, as is a byte order mark. `text` and `name` must outlive the reader.
class CsvReader {
 public:
  CsvReader(std::string_view text, std::string_view name);

  /// The next record, or none at the end. kFormat, `name: line N: …`, when a quoted field has no end, is
  /// followed by anything but a comma or the line's end, or when a record has more than 4,096 fields.
  std::optional<CsvRecord> next();

 private:
  std::string quoted();
  std::string plain();

  std::string_view rest_;
  std::string_view name_;
  std::int64_t line_ = 1;
};

}  // namespace stem
