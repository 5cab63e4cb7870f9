// A weight is fitted anew to what its layer is to give.
#pragma once

#include <cstdint>
#include <vector>

#include "core/workspace.h"
#include "ops/context.h"

namespace stem {

/// Ridge least squares for W [D, K] in y = W z over the positions of a text, weighted so that relative errors
/// count: a start token's, whose state can be a thousand times as large as any other, no more than theirs.
/// Memory: 4·K·(K + D) bytes.
class WeightRefit {
 public:
  /// `target` [N, D], narrow: y at every position; must outlive the refit. Every `sequence` positions begin
  /// with a start token.
  WeightRefit(In target, std::int64_t inputs, std::int64_t sequence);
  /// Positions [first, first + n): z [n, K], narrow.
  void add(const Context& context, std::int64_t first, In inputs);
  /// W [D, K] f32, drawn towards `before` by `ridge` means of the equations' diagonal. Ends the refit.
  Tensor solve(In before, double ridge) const;

 private:
  In target_;
  std::vector<float> weights_;
  Tensor squares_, products_;
};

}  // namespace stem
