#include "ops/embedding.h"

#include "ops/checks.h"

namespace stem {

void embedding_forward(const Context& ctx, Out x, const RowPointers& rows) {
  require_wide(x, x.rows, x.cols, "embedding_forward: x is not wide");
  require_rows(rows, x.rows, x.cols, "embedding_forward: rows are not [N, D]");
  kernels_of(ctx).embedding.gather(x, rows);
}

void embedding_forward(const Context& ctx, Out x, const Weight& table, std::span<const std::int32_t> tokens) {
  require(ctx.inference && table.served, "embedding_forward: not a served table in an inference context");
  require_wide(x, static_cast<std::int64_t>(tokens.size()), table.in_features(),
               "embedding_forward: x is not wide");
  for (const std::int32_t t : tokens) {
    require(t >= 0 && t < table.out_features(), "embedding_forward: token beyond the table");
  }
  kernels_of(ctx).served.gather(x, table.served, tokens);
}

void embedding_backward(const Context& ctx, const RowGradients& d_rows, In d_x) {
  require_wide(d_x, d_x.rows, d_x.cols, "embedding_backward: d_x is not wide");
  require_row_gradients(d_rows, d_x.rows, d_x.cols, "embedding_backward: d_rows");
  kernels_of(ctx).embedding.scatter(d_rows, d_x);
}

void embedding_backward_dense(const Context& ctx, Out d_table, const RowGradients& groups,
                              std::span<const std::int32_t> tokens, In d_x) {
  require_wide(d_x, d_x.rows, d_x.cols, "embedding_backward_dense: d_x is not wide");
  require_wide(d_table, d_table.rows, d_x.cols, "embedding_backward_dense: d_table is not wide [V, D]");
  require_groups(groups, d_x.rows, "embedding_backward_dense: groups");
  require(tokens.size() == static_cast<std::size_t>(groups.distinct),
          "embedding_backward_dense: not one token per group");
  for (const std::int32_t t : tokens) {
    require(t >= 0 && t < d_table.rows, "embedding_backward_dense: token beyond the table");
  }
  kernels_of(ctx).embedding.scatter_dense(d_table, groups, tokens, d_x);
}

}  // namespace stem
