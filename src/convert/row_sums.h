// Rows of a converted layer, from what its dense FFN does on a text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/context.h"

namespace stem {

/// Sums over the occurrences of each distinct token. With s = SiLU(gate) of the layer as it runs and z the
/// gated product as it should be, the row U[t] that leaves the least Σ (s ⊙ U[t] − z)² is Σ s·z / Σ s²,
/// coordinate by coordinate.
class RowSums {
 public:
  /// `tokens`: R distinct ids, ascending. Takes 8·R·F bytes.
  RowSums(std::vector<std::int32_t> tokens, std::int64_t width);

  /// Adds N positions, whose tokens are among the distinct ones: gate and z [N, F] narrow, neither changed.
  /// Takes memory of the context's workspace meanwhile.
  void add(const Context& context, std::span<const std::int32_t> tokens, In gate, In z);

  /// The weight of `occurrences` ordinary ones in each coordinate: that many times the mean s² [F].
  std::vector<float> typical_weight(double occurrences) const;
  /// The row of distinct token r: u [F] comes as a prior guess, which counts with `prior_weight` [F], and
  /// goes as the row. A coordinate without any weight stays what it was.
  void solve(std::int64_t r, std::span<float> u, std::span<const float> prior_weight) const;

  /// Σ s² of distinct token r [F].
  std::span<const float> squares(std::int64_t r) const {
    return {squares_.view.row<float>(r), static_cast<std::size_t>(squares_.view.cols)};
  }
  std::span<const std::int32_t> tokens() const { return tokens_; }
  std::int64_t positions() const { return positions_; }  ///< N in all

 private:
  std::vector<std::int32_t> tokens_;
  Tensor products_, squares_;  // Σ s·z, Σ s² [R, F]
  Tensor one_;                 // [1, F], ones
  std::int64_t positions_ = 0;
};

}  // namespace stem
