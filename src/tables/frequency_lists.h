// Which record to give up: least frequently used, with ageing.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace stem {

/// Use counts of all tokens, resident or not, and the evictable ones in order of them. Every operation takes
/// constant time (`count` on average: every `period` counts all counts are halved, which visits V bytes).
///
/// Counts saturate at 255. Halving them makes the order follow the text: a token's count is about its uses in
/// the last two periods, the latest weighing most. Counts of tokens that are not resident are kept too (a
/// byte each), so that a record that comes back is not a stranger, and one that is rarely used does not
/// displace one that is often used.
class FrequencyLists {
 public:
  static constexpr int kMost = 255;

  /// Counts of `tokens` ids, halved after every `period` >= 1 uses.
  FrequencyLists(std::int64_t tokens, std::int64_t period);

  /// One more use of `token`, which is not evictable now.
  void count(std::int32_t token);
  int frequency(std::int32_t token) const { return frequency_[static_cast<std::size_t>(token)]; }

  void add(std::int32_t token);     ///< `token` may be evicted from now on
  void remove(std::int32_t token);  ///< no more
  bool contains(std::int32_t token) const { return next_[static_cast<std::size_t>(token)] != kAbsent; }
  /// The evictable token of the lowest frequency; of several the one that was added first.
  std::optional<std::int32_t> least() const;
  std::int64_t size() const { return size_; }  ///< evictable tokens

 private:
  static constexpr std::int32_t kAbsent = -2, kEnd = -1;
  struct List {
    std::int32_t first = kEnd, last = kEnd;
  };
  void halve();
  void append(List& to, const List& more);

  std::vector<std::uint8_t> frequency_;    // [V]
  std::vector<std::int32_t> next_, prev_;  // [V] within a list; kAbsent: in none
  std::array<List, kMost + 1> lists_;      // by frequency, oldest first
  std::int64_t period_, counted_ = 0, size_ = 0;
};

}  // namespace stem
