#include "tables/frequency_lists.h"

#include "core/error.h"

namespace stem {
namespace {
std::size_t at(std::int32_t token) {
  return static_cast<std::size_t>(token);
}
}  // namespace

FrequencyLists::FrequencyLists(std::int64_t tokens, std::int64_t period)
    : frequency_(static_cast<std::size_t>(tokens)),
      next_(static_cast<std::size_t>(tokens), kAbsent),
      prev_(static_cast<std::size_t>(tokens), kAbsent),
      period_(period) {
  require(period >= 1, "a period of at least one use");
}

void FrequencyLists::count(std::int32_t token) {
  require(!contains(token), "a record in use is not evictable");
  std::uint8_t& f = frequency_[at(token)];
  if (f < kMost) ++f;
  if (++counted_ >= period_) halve();
}

void FrequencyLists::add(std::int32_t token) {
  require(!contains(token), "evictable once");
  List& list = lists_[frequency_[at(token)]];
  next_[at(token)] = kEnd;
  prev_[at(token)] = list.last;
  if (list.last == kEnd)
    list.first = token;
  else
    next_[at(list.last)] = token;
  list.last = token;
  ++size_;
}

void FrequencyLists::remove(std::int32_t token) {
  require(contains(token), "an evictable record");
  List& list = lists_[frequency_[at(token)]];
  const std::int32_t before = prev_[at(token)], after = next_[at(token)];
  (before == kEnd ? list.first : next_[at(before)]) = after;
  (after == kEnd ? list.last : prev_[at(after)]) = before;
  next_[at(token)] = prev_[at(token)] = kAbsent;
  --size_;
}

std::optional<std::int32_t> FrequencyLists::least() const {
  if (size_ == 0) return std::nullopt;
  for (const List& list : lists_) {
    if (list.first != kEnd) return list.first;
  }
  require(false, "an evictable record lies in a list");
  return std::nullopt;
}

void FrequencyLists::append(List& to, const List& more) {
  if (more.first == kEnd) return;
  if (to.first == kEnd) {
    to = more;
    return;
  }
  next_[at(to.last)] = more.first;
  prev_[at(more.first)] = to.last;
  to.last = more.last;
}

// Lists 2f and 2f + 1 become list f, the less used of the two first.
void FrequencyLists::halve() {
  counted_ = 0;
  for (std::uint8_t& f : frequency_) f = static_cast<std::uint8_t>(f >> 1);
  for (std::size_t f = 0; f < lists_.size(); ++f) {
    List merged;
    if (2 * f + 1 < lists_.size()) {
      append(merged, lists_[2 * f]);
      append(merged, lists_[2 * f + 1]);
    }
    lists_[f] = merged;
  }
}

}  // namespace stem
