#include "ops/stream_match.h"

#include "ops/checks.h"

namespace stem {

void match_stream(const Context& ctx, Out loss, Out d_x, Out copy, In x, In to,
                  std::span<const float> weights) {
  require_wide(x, x.rows, x.cols, "match_stream: x is not wide");
  require_wide(to, x.rows, x.cols, "match_stream: x and to differ in shape");
  require_wide(d_x, x.rows, x.cols, "match_stream: d_x is not wide [N, D]");
  require_wide(loss, 1, x.rows, "match_stream: loss is not wide [1, N]");
  if (copy) require_matrix(copy, x.rows, x.cols, "match_stream: copy is not [N, D]");
  require(std::ssize(weights) == x.rows, "match_stream: a weight for each position");
  kernels_of(ctx).loss.stream_difference(d_x, copy, loss, x, to, weights);
}

}  // namespace stem
