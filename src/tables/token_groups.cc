#include "tables/token_groups.h"

#include <algorithm>
#include <numeric>

namespace stem {

TokenGroups::TokenGroups(std::span<const std::int32_t> tokens) : positions_(tokens.size()) {
  std::iota(positions_.begin(), positions_.end(), 0);
  std::stable_sort(positions_.begin(), positions_.end(), [&](std::int32_t a, std::int32_t b) {
    return tokens[static_cast<std::size_t>(a)] < tokens[static_cast<std::size_t>(b)];
  });
  for (std::size_t i = 0; i < positions_.size(); ++i) {
    const std::int32_t token = tokens[static_cast<std::size_t>(positions_[i])];
    if (tokens_.empty() || tokens_.back() != token) {
      tokens_.push_back(token);
      offsets_.push_back(static_cast<std::int32_t>(i));
    }
  }
  offsets_.push_back(static_cast<std::int32_t>(positions_.size()));
}

TokenGroups::TokenGroups(std::span<const std::int32_t> tokens, std::span<const std::int32_t> distinct)
    : tokens_(distinct.begin(), distinct.end()), offsets_(distinct.size() + 1), positions_(tokens.size()) {
  // Counting sort by group: ascending positions within each.
  std::vector<std::int32_t> group(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), tokens[i]);
    require(found != tokens_.end() && *found == tokens[i], "a token outside the groups");
    group[i] = static_cast<std::int32_t>(found - tokens_.begin());
    ++offsets_[static_cast<std::size_t>(group[i]) + 1];
  }
  std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
  std::vector<std::int32_t> next(offsets_.begin(), offsets_.end() - 1);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    auto& at = next[static_cast<std::size_t>(group[i])];
    positions_[static_cast<std::size_t>(at++)] = static_cast<std::int32_t>(i);
  }
}

RowGradients TokenGroups::gradients(Out grads, std::int64_t first, std::int64_t cols) const {
  if (!grads && grads.cols > 0) return {0, cols, offsets_.data(), positions_.data(), nullptr, grads.dtype, 0};
  const Out part = grads ? grads.slice_cols(first, cols) : grads;
  return {distinct(), cols, offsets_.data(), positions_.data(), part.data, part.dtype, part.stride};
}

}  // namespace stem
