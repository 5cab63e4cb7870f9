// Overlays: rows in force in place of the table's own. The base table is never written; dropping the overlay
// reverts.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "tables/table.h"

namespace stem {

/// One replaced row, as patches list them.
struct OverlayRow {
  std::int32_t token = 0;
  std::int32_t layer = 0;             ///< STEM layer, 0 .. S-1
  std::vector<std::int32_t> trigger;  ///< ids that must stand directly before the token; empty: always
  std::vector<float> values;          ///< [F]
  bool add = false;                   ///< add to the row in force instead of replacing it
};

/// A stack of replaced rows over one table. A later `set` wins over everything before it with the same
/// address and trigger; `add` sums. Where rows with different triggers match, the longest trigger wins.
class Overlay {
 public:
  /// Throws kMismatch for a token >= V, a layer >= S or a row of another width.
  void put(const Table& base, const OverlayRow& row);

  bool empty() const { return rows_.empty(); }

  /// The row that `token` reads in `layer` when `before` are the ids that precede it in its sequence; null:
  /// the table's.
  const std::vector<float>* find(std::int32_t token, std::int64_t layer,
                                 std::span<const std::int32_t> before) const;

  /// Number of replaced addresses.
  std::size_t size() const;

 private:
  struct Entry {
    std::int32_t layer;
    std::vector<std::int32_t> trigger;
    std::vector<float> values;
  };
  std::unordered_map<std::int32_t, std::deque<Entry>>
      rows_;  // deque: rows stay where they are while others are added
};

}  // namespace stem
