// The tables that the atlas corpus is written from: UTF-8 text, one record a line, columns separated by tabs,
// the first line names the columns, "-" stands for an empty cell.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace stem {

/// A table of strings. Every row has as many cells as there are columns.
class AtlasTable {
 public:
  /// Reads `path`. Errors: kNotFound without the file; kFormat for a column that is missing or named twice,
  /// and for a row with another number of columns (file, line, expected, found).
  AtlasTable(const std::filesystem::path& path, const std::vector<std::string>& expected_columns);

  std::size_t size() const { return rows_.size(); }
  const std::vector<std::string>& columns() const { return columns_; }
  bool has_column(std::string_view column) const;
  /// The cell of `column` ("" for "-"). The column must exist.
  const std::string& cell(std::size_t row, std::string_view column) const;
  /// "file.tsv:7", for error messages about a row.
  std::string where(std::size_t row) const;

 private:
  std::string name_;
  std::vector<std::string> columns_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<std::size_t> lines_;
};

/// The pieces of `text` between separators; "" has none.
std::vector<std::string> split_cells(std::string_view text, char separator);

/// A whole number of at most `max` written in digits, or an Error (kFormat) that starts with `where`.
std::size_t parse_count(std::string_view text, std::size_t max, const std::string& where);

}  // namespace stem
