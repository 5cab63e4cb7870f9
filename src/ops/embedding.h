// Token embedding: rows in, rows' gradients out.
#pragma once

#include <span>

#include "core/rows.h"
#include "ops/context.h"

namespace stem {

/// x [N, D] wide = row(token).
void embedding_forward(const Context&, Out x, const RowPointers& rows);
/// The same from a served table [V, D]: x [N, D] wide = its rows `tokens`.
void embedding_forward(const Context&, Out x, const Weight& table, std::span<const std::int32_t> tokens);

/// Row-sparse (untied embedding): d_rows[t] += Σ over positions of t of d_x.
void embedding_backward(const Context&, const RowGradients& d_rows, In d_x);

/// Dense (tied embedding): d_table[tokens[r]] += the sum of group r. d_table [V, D] wide; groups.grads is not
/// used.
void embedding_backward_dense(const Context&, Out d_table, const RowGradients& groups,
                              std::span<const std::int32_t> tokens, In d_x);

}  // namespace stem
