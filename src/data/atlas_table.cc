#include "data/atlas_table.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "io/file.h"

namespace stem {

namespace {
constexpr std::uint64_t kMaxTableBytes = 16u << 20;
}

std::vector<std::string> split_cells(std::string_view text, char separator) {
  std::vector<std::string> cells;
  if (text.empty()) return cells;
  for (std::size_t begin = 0;;) {
    const std::size_t end = text.find(separator, begin);
    cells.emplace_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return cells;
    begin = end + 1;
  }
}

std::size_t parse_count(std::string_view text, std::size_t max, const std::string& where) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > max) {
    fail(ErrorCode::kFormat, "{}: expected a number up to {}, found \"{}\"", where, max, text);
  }
  return value;
}

AtlasTable::AtlasTable(const std::filesystem::path& path, const std::vector<std::string>& expected_columns)
    : name_(path.string()) {
  const std::string text = read_file(path, kMaxTableBytes);
  const std::vector<std::string> lines = split_cells(text, '\n');
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty() || lines[i].front() == '#') continue;
    std::vector<std::string> cells = split_cells(lines[i], '\t');
    if (columns_.empty()) {
      columns_ = std::move(cells);
      continue;
    }
    if (cells.size() != columns_.size()) {
      fail(ErrorCode::kFormat, "{}:{}: expected {} columns, found {}", name_, i + 1, columns_.size(),
           cells.size());
    }
    for (std::string& cell : cells) {
      if (cell == "-") cell.clear();
    }
    rows_.push_back(std::move(cells));
    lines_.push_back(i + 1);
  }
  for (const std::string& column : expected_columns) {
    const auto found = std::count(columns_.begin(), columns_.end(), column);
    if (found != 1) {
      fail(ErrorCode::kFormat, "{}:1: expected one column \"{}\", found {}", name_, column, found);
    }
  }
  if (rows_.empty()) fail(ErrorCode::kFormat, "{}: expected at least one row, found none", name_);
}

bool AtlasTable::has_column(std::string_view column) const {
  return std::find(columns_.begin(), columns_.end(), column) != columns_.end();
}

const std::string& AtlasTable::cell(std::size_t row, std::string_view column) const {
  const auto at = std::find(columns_.begin(), columns_.end(), column);
  require(at != columns_.end() && row < rows_.size(), "no such cell");
  return rows_[row][static_cast<std::size_t>(at - columns_.begin())];
}

std::string AtlasTable::where(std::size_t row) const {
  require(row < lines_.size(), "no such row");
  return fmt::format("{}:{}", name_, lines_[row]);
}

}  // namespace stem
