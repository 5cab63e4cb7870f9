// Where a model's table lies while it is used.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace stem {

/// A placement is obeyed, never changed silently. The same tokens give the same logits, bit for bit, in each.
struct TablePlacement {
  enum class Kind {
    memory,  ///< the whole table copied into memory, in the type that the file has
    mapped,  ///< the file mapped: the system loads and drops pages as it likes
    disk,    ///< records read as they are needed, the most used ones kept in `budget_bytes`
  };
  Kind kind = Kind::mapped;
  std::int64_t budget_bytes = 0;  ///< of the cache of records, only for disk

  bool operator==(const TablePlacement&) const = default;
};

/// From "memory", "mapped" or "disk:BUDGET"; BUDGET is a whole number of bytes, or one with K, M or G (1024,
/// 1024², 1024³). kUsage for anything else.
TablePlacement placement_from(std::string_view text);

/// A number of bytes as above, "64M"; `what` names it in errors. kUsage unless 1 .. 2^62.
std::int64_t bytes_from(std::string_view text, std::string_view what);

/// The text that placement_from reads: "disk:67108864".
std::string placement_text(const TablePlacement& placement);

}  // namespace stem
