// Where in one KV cache each sequence lies, and what finished ones left behind for those that begin alike.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace stem {

/// Hands out runs of consecutive rows of a cache. A released range keeps its rows, idle, until its place is
/// needed (least recently used first): a new sequence that begins with the same tokens takes them over, or is
/// told to copy them. Bookkeeping alone; the caller moves the rows.
class KvRanges {
 public:
  /// `reuse` false: released ranges are forgotten.
  explicit KvRanges(std::int64_t rows, bool reuse = true) : rows_(rows), reuse_(reuse) {}

  struct Place {
    std::int64_t id = 0;
    std::int64_t first = 0;       ///< first row
    std::int64_t cached = 0;      ///< rows that hold the prompt's first tokens, once copied
    std::int64_t copy_from = -1;  ///< row to copy `cached` rows from; −1: they are there already
  };

  /// `length` rows (1 .. rows) for a sequence that begins with `prompt`. At least the prompt's last token is
  /// left to compute. Nothing where running sequences leave no gap: then no idle range was given up either.
  std::optional<Place> place(std::span<const std::int32_t> prompt, std::int64_t length, bool share = true);

  /// Notes that the range's next rows now hold `tokens`.
  void append(std::int64_t id, std::span<const std::int32_t> tokens);
  /// The sequence has ended; what it computed stays, idle.
  void release(std::int64_t id);

  /// The longest beginning of `prompt` (without its last token) that some range holds.
  std::int64_t longest_match(std::span<const std::int32_t> prompt) const;

  std::int64_t rows() const { return rows_; }
  std::int64_t busy_rows() const;
  std::size_t idle_ranges() const;

 private:
  struct Range {
    std::int64_t id = 0, first = 0, length = 0;
    bool busy = false;
    std::uint64_t used = 0;
    std::vector<std::int32_t> tokens;
    std::int64_t end() const { return first + length; }
  };
  struct Match {
    std::int64_t id = -1, length = 0;
  };
  Match best_match(std::span<const std::int32_t> prompt) const;
  bool fits_beside_busy(std::int64_t length) const;
  std::optional<std::int64_t> find_gap(std::int64_t length) const;
  std::int64_t room_of(const Range& range) const;
  bool evict_one(std::int64_t keep);
  Range* find(std::int64_t id);
  std::optional<Place> take_over(const Match& match, std::int64_t length);
  Place add(std::int64_t first, std::int64_t length);

  std::int64_t rows_;
  bool reuse_;
  std::int64_t next_id_ = 0;
  std::uint64_t clock_ = 0;
  std::vector<Range> ranges_;  // by first row, none overlapping
};

}  // namespace stem
