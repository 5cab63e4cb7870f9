#include "tables/placement.h"

#include <charconv>

#include "core/error.h"

namespace stem {
namespace {
constexpr std::int64_t kMost = std::int64_t{1} << 62;
}

std::int64_t bytes_from(std::string_view text, std::string_view what) {
  std::int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [at, code] = std::from_chars(text.data(), end, value);
  int shift = 0;
  if (at + 1 == end) {
    const char unit = *at;
    shift = unit == 'K' || unit == 'k'   ? 10
            : unit == 'M' || unit == 'm' ? 20
            : unit == 'G' || unit == 'g' ? 30
                                         : -1;
  } else if (at != end) {
    shift = -1;
  }
  if (code != std::errc() || shift < 0 || value <= 0 || value > kMost >> shift)
    fail(ErrorCode::kUsage, "{}: expected a number of bytes such as 67108864, 64M or 2G, found \"{}\"", what,
         text);
  return value << shift;
}

TablePlacement placement_from(std::string_view text) {
  constexpr std::string_view kDisk = "disk:";
  if (text == "memory") return {TablePlacement::Kind::memory, 0};
  if (text == "mapped") return {TablePlacement::Kind::mapped, 0};
  if (text.starts_with(kDisk))
    return {TablePlacement::Kind::disk, bytes_from(text.substr(kDisk.size()), "table placement: disk")};
  fail(ErrorCode::kUsage, "table placement: expected memory, mapped or disk:BUDGET (disk:64M), found \"{}\"",
       text);
}

std::string placement_text(const TablePlacement& placement) {
  switch (placement.kind) {
    case TablePlacement::Kind::memory:
      return "memory";
    case TablePlacement::Kind::mapped:
      return "mapped";
    case TablePlacement::Kind::disk:
      break;
  }
  return fmt::format("disk:{}", placement.budget_bytes);
}

}  // namespace stem
