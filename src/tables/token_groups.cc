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

RowGradients TokenGroups::gradients(Out grads, std::int64_t first, std::int64_t cols) const {
  const Out part = grads ? grads.slice_cols(first, cols) : grads;
  return {distinct(), cols, offsets_.data(), positions_.data(), part.data, part.dtype, part.stride};
}

}  // namespace stem
