#include "ops/glu.h"

#include "ops/checks.h"

namespace stem {
namespace {

void require_like(const In& m, const In& model, std::string_view what) {
  require_matrix(m, model.rows, model.cols, what);
  require(m.dtype == model.dtype, what);
}

}  // namespace

void swiglu_forward(const Context& ctx, Out h, In gate, In up) {
  require_like(h, h, "swiglu_forward: h");
  require_like(gate, h, "swiglu_forward: gate is not like h");
  require_like(up, h, "swiglu_forward: up is not like h");
  kernels_of(ctx).glu.swiglu_forward(h, gate, up);
}

void swiglu_backward(const Context& ctx, Out d_gate, Out d_up, In d_h, In gate, In up) {
  require_like(d_h, d_h, "swiglu_backward: d_h");
  require_like(d_gate, d_h, "swiglu_backward: d_gate is not like d_h");
  require_like(d_up, d_h, "swiglu_backward: d_up is not like d_h");
  require_like(gate, d_h, "swiglu_backward: gate is not like d_h");
  require_like(up, d_h, "swiglu_backward: up is not like d_h");
  kernels_of(ctx).glu.swiglu_backward(d_gate, d_up, d_h, gate, up);
}

void stem_forward(const Context& ctx, Out h, In gate, const RowPointers& rows) {
  require_like(h, h, "stem_forward: h");
  require_like(gate, h, "stem_forward: gate is not like h");
  require_rows(rows, h.rows, h.cols, "stem_forward: rows are not [N, F]");
  kernels_of(ctx).glu.stem_forward(h, gate, rows);
}

void stem_backward(const Context& ctx, Out d_gate, const RowGradients& d_rows, In d_h, In gate,
                   const RowPointers& rows) {
  require_like(d_h, d_h, "stem_backward: d_h");
  require_like(d_gate, d_h, "stem_backward: d_gate is not like d_h");
  require_like(gate, d_h, "stem_backward: gate is not like d_h");
  require_rows(rows, d_h.rows, d_h.cols, "stem_backward: rows are not [N, F]");
  require_row_gradients(d_rows, d_h.rows, d_h.cols, "stem_backward: d_rows");
  kernels_of(ctx).glu.stem_backward(d_gate, d_rows, d_h, gate, rows);
}

void stem_gate_forward(const Context& ctx, Out h, In up, const RowPointers& rows) {
  require_like(h, h, "stem_gate_forward: h");
  require_like(up, h, "stem_gate_forward: up is not like h");
  require_rows(rows, h.rows, h.cols, "stem_gate_forward: rows are not [N, F]");
  kernels_of(ctx).glu.stem_gate_forward(h, up, rows);
}

void stem_gate_backward(const Context& ctx, Out d_up, const RowGradients& d_rows, In d_h, In up,
                        const RowPointers& rows) {
  require_like(d_h, d_h, "stem_gate_backward: d_h");
  require_like(d_up, d_h, "stem_gate_backward: d_up is not like d_h");
  require_like(up, d_h, "stem_gate_backward: up is not like d_h");
  require_rows(rows, d_h.rows, d_h.cols, "stem_gate_backward: rows are not [N, F]");
  require_row_gradients(d_rows, d_h.rows, d_h.cols, "stem_gate_backward: d_rows");
  kernels_of(ctx).glu.stem_gate_backward(d_up, d_rows, d_h, up, rows);
}

void stem_additive_forward(const Context& ctx, Out h, In gate, In up, const RowPointers& rows) {
  require_like(h, h, "stem_additive_forward: h");
  require_like(gate, h, "stem_additive_forward: gate is not like h");
  require_like(up, h, "stem_additive_forward: up is not like h");
  require_rows(rows, h.rows, h.cols, "stem_additive_forward: rows are not [N, F]");
  kernels_of(ctx).glu.stem_additive_forward(h, gate, up, rows);
}

void stem_additive_backward(const Context& ctx, Out d_gate, Out d_up, const RowGradients& d_rows, In d_h,
                            In gate, In up, const RowPointers& rows) {
  require_like(d_h, d_h, "stem_additive_backward: d_h");
  require_like(d_gate, d_h, "stem_additive_backward: d_gate is not like d_h");
  require_like(d_up, d_h, "stem_additive_backward: d_up is not like d_h");
  require_like(gate, d_h, "stem_additive_backward: gate is not like d_h");
  require_like(up, d_h, "stem_additive_backward: up is not like d_h");
  require_rows(rows, d_h.rows, d_h.cols, "stem_additive_backward: rows are not [N, F]");
  require_row_gradients(d_rows, d_h.rows, d_h.cols, "stem_additive_backward: d_rows");
  kernels_of(ctx).glu.stem_additive_backward(d_gate, d_up, d_rows, d_h, gate, up, rows);
}

}  // namespace stem
