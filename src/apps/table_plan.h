// What each placement of a table would take and give.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tables/placement.h"

namespace stem {

/// Share of the lookups that a cache of the `share` (0 .. 1) most used of `vocab` tokens serves. In text: as
/// measured on text and code (stem-spec §7: 1 % of the vocabulary serves 78 %, 5 % 91 %, 10 % 95 %),
/// interpolated in log(share). Of the ids that `stem bench` draws, p(i) ~ 1/i: ln(share·V) / ln(V).
double text_hit_rate(double share, std::int64_t vocab);
double zipf_hit_rate(double share, std::int64_t vocab);

/// What a plan starts from; bytes and seconds.
struct TablePlanInput {
  double memory = 0;            ///< what may be used in all
  double dense = 0, cache = 0;  ///< dense weights as they are served; keys and values of the whole context
  double program = 0;           ///< everything else that is no table
  std::int64_t vocab = 0;
  double record = 0;    ///< bytes of one record; 0: the model has no table
  double token_s = 0;   ///< a token whose rows are in memory
  double hidden_s = 0;  ///< of it, before the first row is needed: what a read may take unnoticed
  double record_s = 0;  ///< one record read from the disk
  bool zipf = false;    ///< ids as `stem bench` draws them, not as in text
  double table() const { return static_cast<double>(vocab) * record; }
};

struct PlacedTable {
  TablePlacement placement;
  bool fits = false;
  std::string reason;       ///< why not
  double resident = 0;      ///< bytes in all
  double hit_rate = 1;      ///< share of the records that need not be read
  double tokens_per_s = 0;  ///< decode, one sequence
};

/// Memory, mapped and disk, in this order; on disk the budget is what the rest leaves (`budget_bytes` > 0:
/// that one). A model without a table has memory alone.
std::vector<PlacedTable> plan_tables(const TablePlanInput& input, std::int64_t budget_bytes = 0);

/// The one to take: the fastest that fits, within 1 % the first of memory, disk, mapped; null: none fits.
const PlacedTable* recommended(const std::vector<PlacedTable>& plan);

}  // namespace stem
