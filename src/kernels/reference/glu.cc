// Gated products and the embedding: the kernels that read rows of a table through pointers.
#include <cmath>

#include "kernels/reference/families.h"
#include "kernels/reference/rows_as_doubles.h"

namespace stem::reference {
namespace {

double sigmoid(double a) {
  return 1.0 / (1.0 + std::exp(-a));
}
double silu(double a) {
  return a * sigmoid(a);
}
double silu_slope(double a) {
  return sigmoid(a) + silu(a) * (1.0 - sigmoid(a));
}

/// One output row from one row of each operand, elementwise.
template <class F>
Row combine(const Row& a, const Row& b, F f) {
  Row result(a.size());
  for (std::size_t j = 0; j < a.size(); ++j) result[j] = f(a[j], b[j]);
  return result;
}

template <class F>
Row combine(const Row& a, const Row& b, const Row& c, F f) {
  Row result(a.size());
  for (std::size_t j = 0; j < a.size(); ++j) result[j] = f(a[j], b[j], c[j]);
  return result;
}

/// grads[r] += Σ contribution(n) over the positions n of distinct token r, in ascending order.
template <class F>
void sum_by_token(const RowGradients& d_rows, F contribution) {
  for (std::int64_t r = 0; r < d_rows.distinct; ++r) {
    Row sum(static_cast<std::size_t>(d_rows.cols), 0.0);
    for (std::int32_t p = d_rows.offsets[r]; p < d_rows.offsets[r + 1]; ++p) {
      const Row part = contribution(std::int64_t{d_rows.positions[p]});
      for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += part[j];
    }
    add_row(as_view(d_rows), r, sum);
  }
}

double gated(double gate, double up) {
  return silu(gate) * up;
}
double d_gated(double d_h, double gate, double up) {
  return d_h * up * silu_slope(gate);
}
double d_up_of(double d_h, double gate) {
  return d_h * silu(gate);
}

void swiglu_forward(Out h, In gate, In up) {
  for (std::int64_t n = 0; n < h.rows; ++n)
    store_row(h, n, combine(load_row(gate, n), load_row(up, n), gated));
}

void swiglu_backward(Out d_gate, Out d_up, In d_h, In gate, In up) {
  for (std::int64_t n = 0; n < d_h.rows; ++n) {
    // Both results exist before either is stored: the outputs may be the memory of gate and up.
    const Row d = load_row(d_h, n), a = load_row(gate, n), u = load_row(up, n);
    const Row d_a = combine(d, a, u, d_gated), d_u = combine(d, a, d_up_of);
    store_row(d_gate, n, d_a);
    store_row(d_up, n, d_u);
  }
}

void stem_forward(Out h, In gate, const RowPointers& rows) {
  for (std::int64_t n = 0; n < h.rows; ++n)
    store_row(h, n, combine(load_row(gate, n), load_row(rows, n), gated));
}

void stem_backward(Out d_gate, const RowGradients& d_rows, In d_h, In gate, const RowPointers& rows) {
  // Rows first: d_gate may be the memory of gate.
  sum_by_token(d_rows, [&](std::int64_t n) { return combine(load_row(d_h, n), load_row(gate, n), d_up_of); });
  for (std::int64_t n = 0; n < d_h.rows; ++n) {
    store_row(d_gate, n, combine(load_row(d_h, n), load_row(gate, n), load_row(rows, n), d_gated));
  }
}

void stem_gate_forward(Out h, In up, const RowPointers& rows) {
  for (std::int64_t n = 0; n < h.rows; ++n)
    store_row(h, n, combine(load_row(rows, n), load_row(up, n), gated));
}

void stem_gate_backward(Out d_up, const RowGradients& d_rows, In d_h, In up, const RowPointers& rows) {
  sum_by_token(d_rows, [&](std::int64_t n) {
    return combine(load_row(d_h, n), load_row(rows, n), load_row(up, n), d_gated);
  });
  for (std::int64_t n = 0; n < d_h.rows; ++n) {
    store_row(d_up, n, combine(load_row(d_h, n), load_row(rows, n), d_up_of));
  }
}

void stem_additive_forward(Out h, In gate, In up, const RowPointers& rows) {
  for (std::int64_t n = 0; n < h.rows; ++n) {
    store_row(h, n,
              combine(load_row(gate, n), load_row(up, n), load_row(rows, n),
                      [](double a, double u, double row) { return gated(a, u + row); }));
  }
}

void stem_additive_backward(Out d_gate, Out d_up, const RowGradients& d_rows, In d_h, In gate, In up,
                            const RowPointers& rows) {
  sum_by_token(d_rows, [&](std::int64_t n) { return combine(load_row(d_h, n), load_row(gate, n), d_up_of); });
  for (std::int64_t n = 0; n < d_h.rows; ++n) {
    const Row d = load_row(d_h, n), a = load_row(gate, n);
    const Row u = combine(load_row(up, n), load_row(rows, n), [](double x, double y) { return x + y; });
    const Row d_a = combine(d, a, u, d_gated), d_u = combine(d, a, d_up_of);
    store_row(d_gate, n, d_a);
    store_row(d_up, n, d_u);
  }
}

void gather(Out x, const RowPointers& rows) {
  for (std::int64_t n = 0; n < x.rows; ++n) store_row(x, n, load_row(rows, n));
}

void scatter(const RowGradients& d_rows, In d_x) {
  sum_by_token(d_rows, [&](std::int64_t n) { return load_row(d_x, n); });
}

void scatter_dense(Out d_table, const RowGradients& groups, std::span<const std::int32_t> tokens, In d_x) {
  for (std::int64_t r = 0; r < groups.distinct; ++r) {
    Row sum(static_cast<std::size_t>(d_table.cols), 0.0);
    for (std::int32_t p = groups.offsets[r]; p < groups.offsets[r + 1]; ++p) {
      const Row part = load_row(d_x, groups.positions[p]);
      for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += part[j];
    }
    add_row(d_table, tokens[static_cast<std::size_t>(r)], sum);
  }
}

}  // namespace

GluKernels glu_kernels() {
  return {.swiglu_forward = swiglu_forward,
          .swiglu_backward = swiglu_backward,
          .stem_forward = stem_forward,
          .stem_backward = stem_backward,
          .stem_gate_forward = stem_gate_forward,
          .stem_gate_backward = stem_gate_backward,
          .stem_additive_forward = stem_additive_forward,
          .stem_additive_backward = stem_additive_backward};
}

EmbeddingKernels embedding_kernels() {
  return {.gather = gather, .scatter = scatter, .scatter_dense = scatter_dense};
}

}  // namespace stem::reference
