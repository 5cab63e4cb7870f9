#include "generate/kv_ranges.h"

#include <algorithm>

#include "core/error.h"

namespace stem {

KvRanges::Match KvRanges::best_match(std::span<const std::int32_t> prompt) const {
  Match best;
  const auto whole = prompt.first(prompt.size() - 1);
  for (const Range& r : ranges_) {
    const auto end = std::mismatch(whole.begin(), whole.end(), r.tokens.begin(), r.tokens.end()).first;
    const std::int64_t length = end - whole.begin();
    if (length > best.length) best = {r.id, length};
  }
  return best;
}

std::int64_t KvRanges::longest_match(std::span<const std::int32_t> prompt) const {
  return best_match(prompt).length;
}

bool KvRanges::fits_beside_busy(std::int64_t length) const {
  std::int64_t free_from = 0;
  for (const Range& r : ranges_) {
    if (!r.busy) continue;
    if (r.first - free_from >= length) return true;
    free_from = r.end();
  }
  return rows_ - free_from >= length;
}

std::optional<std::int64_t> KvRanges::find_gap(std::int64_t length) const {
  std::int64_t free_from = 0;
  for (const Range& r : ranges_) {
    if (r.first - free_from >= length) return free_from;
    free_from = r.end();
  }
  return rows_ - free_from >= length ? std::optional(free_from) : std::nullopt;
}

// Rows that the range could have where it is.
std::int64_t KvRanges::room_of(const Range& range) const {
  for (const Range& r : ranges_) {
    if (r.first > range.first) return r.first - range.first;
  }
  return rows_ - range.first;
}

bool KvRanges::evict_one(std::int64_t keep) {
  auto oldest = ranges_.end();
  for (auto it = ranges_.begin(); it != ranges_.end(); ++it) {
    if (it->busy || it->id == keep) continue;
    if (oldest == ranges_.end() || it->used < oldest->used) oldest = it;
  }
  if (oldest == ranges_.end()) return false;
  ranges_.erase(oldest);
  return true;
}

KvRanges::Range* KvRanges::find(std::int64_t id) {
  const auto it = std::find_if(ranges_.begin(), ranges_.end(), [&](const Range& r) { return r.id == id; });
  return it == ranges_.end() ? nullptr : &*it;
}

std::optional<KvRanges::Place> KvRanges::take_over(const Match& match, std::int64_t length) {
  Range* const r = find(match.id);
  if (r == nullptr || r->busy || room_of(*r) < length) return std::nullopt;
  r->busy = true;
  r->length = length;
  r->tokens.resize(static_cast<std::size_t>(match.length));
  return Place{r->id, r->first, match.length, -1};
}

KvRanges::Place KvRanges::add(std::int64_t first, std::int64_t length) {
  Range range;
  range.id = next_id_++;
  range.first = first;
  range.length = length;
  range.busy = true;
  const auto at =
      std::find_if(ranges_.begin(), ranges_.end(), [&](const Range& r) { return r.first > first; });
  const Place place{range.id, first, 0, -1};
  ranges_.insert(at, std::move(range));
  return place;
}

std::optional<KvRanges::Place> KvRanges::place(std::span<const std::int32_t> prompt, std::int64_t length,
                                               bool share) {
  require(!prompt.empty() && length >= 1 && length <= rows_, "a place within the cache");
  if (!fits_beside_busy(length)) return std::nullopt;
  ++clock_;
  const Match match = share && reuse_ ? best_match(prompt) : Match{};
  if (match.length > 0) {
    Range& source = *find(match.id);
    source.used = clock_;
    // A conversation that goes on continues where it lies; what it would lose is little.
    const auto lost = std::ssize(source.tokens) - match.length;
    if (!source.busy && lost <= match.length / 4) {
      if (const auto place = take_over(match, length)) return place;
    }
  }
  while (true) {
    if (const auto first = find_gap(length)) {
      Place place = add(*first, length);
      if (const Range* const source = find(match.id); source != nullptr && match.length > 0) {
        place.cached = match.length;
        place.copy_from = source->first;
        Range& own = *find(place.id);
        own.tokens.assign(prompt.begin(), prompt.begin() + match.length);
      }
      return place;
    }
    if (evict_one(match.id)) continue;
    // Only the source is left to give way: in its own place if that is enough, else it is lost.
    if (const auto place = take_over(match, length)) return place;
    if (!evict_one(-1)) return std::nullopt;
  }
}

void KvRanges::append(std::int64_t id, std::span<const std::int32_t> tokens) {
  Range* const r = find(id);
  require(r != nullptr && r->busy, "rows are appended to a range in use");
  r->tokens.insert(r->tokens.end(), tokens.begin(), tokens.end());
  require(std::ssize(r->tokens) <= r->length, "a range holds no more tokens than rows");
}

void KvRanges::release(std::int64_t id) {
  Range* const r = find(id);
  require(r != nullptr && r->busy, "a range is released once");
  r->busy = false;
  r->used = ++clock_;
  r->length = std::ssize(r->tokens);
  if (!reuse_ || r->tokens.empty()) ranges_.erase(ranges_.begin() + (r - ranges_.data()));
}

std::int64_t KvRanges::busy_rows() const {
  std::int64_t rows = 0;
  for (const Range& r : ranges_) rows += r.busy ? r.length : 0;
  return rows;
}

std::size_t KvRanges::idle_ranges() const {
  return static_cast<std::size_t>(
      std::count_if(ranges_.begin(), ranges_.end(), [](const Range& r) { return !r.busy; }));
}

}  // namespace stem
