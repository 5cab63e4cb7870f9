// Which positions of a batch hold which token: the shape of every row-sparse gradient.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/rows.h"
#include "core/workspace.h"

namespace stem {

/// The R distinct tokens of a batch, ascending, each with its positions, ascending. Cost O(N log N), never
/// O(V).
class TokenGroups {
 public:
  explicit TokenGroups(std::span<const std::int32_t> tokens);
  /// The positions of `tokens`, each grouped under its place among `distinct` (ascending, holds every one of
  /// them); groups may be empty. So several micro-batches add to one row-sparse gradient.
  TokenGroups(std::span<const std::int32_t> tokens, std::span<const std::int32_t> distinct);

  std::span<const std::int32_t> tokens() const { return tokens_; }  ///< [R]
  std::int64_t distinct() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::int64_t count(std::int64_t r) const {
    return offsets_[static_cast<std::size_t>(r) + 1] - offsets_[static_cast<std::size_t>(r)];
  }

  /// The gradient of one STEM layer (or of the embedding) over `grads` [R, …]: layer's columns [first, first
  /// + cols). A `grads` without data but with columns stands for rows that want no gradient (frozen ones):
  /// the result has no groups.
  RowGradients gradients(Out grads, std::int64_t first, std::int64_t cols) const;

 private:
  std::vector<std::int32_t> tokens_;     // [R]
  std::vector<std::int32_t> offsets_;    // [R + 1]
  std::vector<std::int32_t> positions_;  // [N]
};

}  // namespace stem
