#include "apps/table_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "apps/progress.h"
#include "core/error.h"

namespace stem {
namespace {

// Reads in flight, and the records of one batch that the budget has no place for.
constexpr double kDiskOverhead = 32.0 * (1 << 20);

double hit_rate(const TablePlanInput& in, double share) {
  return in.zipf ? zipf_hit_rate(share, in.vocab) : text_hit_rate(share, in.vocab);
}

// A record that is not in memory costs what of its read the layers before its first use do not hide.
double tokens_per_s(const TablePlanInput& in, double hits) {
  return 1.0 / (in.token_s + (1 - hits) * std::max(0.0, in.record_s - in.hidden_s));
}

std::string lacking(double wanted, double found) {
  return fmt::format("needs {}, {} more than may be used", bytes_text(wanted), bytes_text(wanted - found));
}

}  // namespace

double zipf_hit_rate(double share, std::int64_t vocab) {
  const double kept = share * static_cast<double>(vocab);
  if (kept < 1 || vocab < 2) return vocab < 2 && share >= 1 ? 1.0 : 0.0;
  return std::min(1.0, std::log(kept) / std::log(static_cast<double>(vocab)));
}

double text_hit_rate(double share, std::int64_t vocab) {
  const double one = 1.0 / static_cast<double>(vocab);  // the most frequent token: about 4 % of a text
  if (share >= 1) return 1;
  if (share < one) return 0;
  const std::array<std::pair<double, double>, 4> measured{
      {{0.01, 0.78}, {0.05, 0.91}, {0.10, 0.95}, {1.0, 1.0}}};
  std::pair<double, double> low{std::min(one, 0.009), 0.04};
  for (const auto& high : measured) {
    if (share <= high.first) {
      const double t = std::log(share / low.first) / std::log(high.first / low.first);
      return low.second + t * (high.second - low.second);
    }
    low = high;
  }
  return 1;
}

std::vector<PlacedTable> plan_tables(const TablePlanInput& in, std::int64_t budget_bytes) {
  using Kind = TablePlacement::Kind;
  const double fixed = in.dense + in.cache + in.program, table = in.table();
  std::vector<PlacedTable> plan;
  const auto add = [&](TablePlacement placement, double resident, double hits) -> PlacedTable& {
    PlacedTable& p = plan.emplace_back();
    p.placement = placement;
    p.resident = resident;
    p.fits = resident <= in.memory;
    if (!p.fits) p.reason = lacking(resident, in.memory);
    p.hit_rate = hits;
    p.tokens_per_s = tokens_per_s(in, hits);
    return p;
  };
  add({Kind::memory, 0}, fixed + table, 1);
  if (in.record == 0) return plan;

  // The page cache keeps what the rest leaves it; whole pages, and not by use count, so this is the best
  // case.
  const double left = std::clamp(in.memory - fixed, 0.0, table);
  PlacedTable& mapped = add({Kind::mapped, 0}, fixed + left, hit_rate(in, left / table));
  if (fixed + in.record > in.memory) {
    mapped.fits = false;
    mapped.reason = lacking(fixed + in.record, in.memory);
  }

  const double spare = std::floor((in.memory - fixed - kDiskOverhead) / (1 << 20)) * (1 << 20);
  const double budget =
      budget_bytes > 0 ? static_cast<double>(budget_bytes) : std::min(std::max(spare, in.record), table);
  PlacedTable& disk = add({Kind::disk, static_cast<std::int64_t>(budget)}, fixed + budget + kDiskOverhead,
                          hit_rate(in, std::min(1.0, budget / table)));
  if (budget < in.record) {
    disk.fits = false;
    disk.reason =
        fmt::format("a budget of {} holds no record of {}", bytes_text(budget), bytes_text(in.record));
  }
  return plan;
}

const PlacedTable* recommended(const std::vector<PlacedTable>& plan) {
  using Kind = TablePlacement::Kind;
  const PlacedTable* best = nullptr;
  for (const Kind kind : {Kind::memory, Kind::disk, Kind::mapped}) {
    for (const PlacedTable& p : plan) {
      if (p.placement.kind != kind || !p.fits) continue;
      if (best == nullptr || p.tokens_per_s > 1.01 * best->tokens_per_s) best = &p;
    }
  }
  return best;
}

}  // namespace stem
