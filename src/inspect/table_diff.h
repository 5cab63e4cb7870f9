// Which rows differ between two tables of one shape: what somebody changed, and whether they only exchanged
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "tables/table.h"

namespace stem {

/// One address (token, layer) whose rows differ.
struct RowDifference {
  std::int32_t token = 0;
  std::int32_t layer = 0;         ///< STEM layer, 0 .. S-1
  double max_abs_difference = 0;  ///< max_i |a_i − b_i|; infinity where either holds a NaN
  double cosine = 0;              ///< of a's row with b's; NaN when either is all zeros
  /// The token u for which b's row of `token` is a's row of u, and b's row of u is a's row of `token`.
  std::optional<std::int32_t> exchanged_with;
};

/// The rows that are not the same in `a` and `b`, by ascending token, then layer. Tables of one dtype are
/// compared bit by bit (so −0 differs from 0), others as f32. An absent table reads as zeros. Reads each
/// table once, and the differing rows a second time. Throws kMismatch, with both names and shapes, when the
/// shapes differ.
std::vector<RowDifference> diff_tables(const Table& a, const Table& b,
                                       std::string_view name_a = "the first table",
                                       std::string_view name_b = "the second table");

}  // namespace stem
