#include "tables/overlay.h"

#include <algorithm>

namespace stem {

void Overlay::put(const Table& base, const OverlayRow& row) {
  const TableShape& shape = base.shape();
  if (row.token < 0 || row.token >= shape.vocab) {
    fail(ErrorCode::kMismatch, "overlay row: token: expected an id below {}, found {}", shape.vocab,
         row.token);
  }
  if (row.layer < 0 || row.layer >= shape.layers) {
    fail(ErrorCode::kMismatch, "overlay row of token {}: layer: expected a STEM layer below {}, found {}",
         row.token, shape.layers, row.layer);
  }
  if (static_cast<std::int64_t>(row.values.size()) != shape.width) {
    fail(ErrorCode::kMismatch, "overlay row of token {}: expected {} values, found {}", row.token,
         shape.width, row.values.size());
  }
  std::deque<Entry>& entries = rows_[row.token];
  const auto same = std::find_if(entries.begin(), entries.end(), [&](const Entry& e) {
    return e.layer == row.layer && e.trigger == row.trigger;
  });
  if (!row.add) {
    if (same != entries.end())
      same->values = row.values;
    else
      entries.push_back({row.layer, row.trigger, row.values});
    return;
  }
  // `add` sums onto what was in force before: an earlier entry of the stack, else the table's own row.
  std::vector<float> sum(row.values.size());
  if (same != entries.end())
    sum = same->values;
  else if (const auto* under = find(row.token, row.layer, row.trigger))
    sum = *under;
  else
    base.read_row(row.token, row.layer, sum);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += row.values[i];
  if (same != entries.end())
    same->values = std::move(sum);
  else
    entries.push_back({row.layer, row.trigger, std::move(sum)});
}

const std::vector<float>* Overlay::find(std::int32_t token, std::int64_t layer,
                                        std::span<const std::int32_t> before) const {
  const auto found = rows_.find(token);
  if (found == rows_.end()) return nullptr;
  const Entry* best = nullptr;
  for (const Entry& e : found->second) {
    if (e.layer != layer || e.trigger.size() > before.size()) continue;
    if (!std::equal(e.trigger.begin(), e.trigger.end(),
                    before.end() - static_cast<std::ptrdiff_t>(e.trigger.size())))
      continue;
    if (best == nullptr || e.trigger.size() > best->trigger.size()) best = &e;
  }
  return best == nullptr ? nullptr : &best->values;
}

std::size_t Overlay::size() const {
  std::size_t total = 0;
  for (const auto& [token, entries] : rows_) total += entries.size();
  return total;
}

}  // namespace stem
