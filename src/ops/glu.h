// The gated products of every FFN variant (stem-spec §1, §2). s = SiLU(a); all matrices [N, F] narrow.
#pragma once

#include "core/rows.h"
#include "ops/context.h"

namespace stem {

/// dense: h = SiLU(gate) ⊙ up.
void swiglu_forward(const Context&, Out h, In gate, In up);
/// d_up = d_h ⊙ s; d_gate = d_h ⊙ up ⊙ SiLU'(gate). Both overwrite; outputs may alias gate and up.
void swiglu_backward(const Context&, Out d_gate, Out d_up, In d_h, In gate, In up);

/// stem: h = SiLU(gate) ⊙ row(token). A null row is zero.
void stem_forward(const Context&, Out h, In gate, const RowPointers& rows);
/// d_gate overwrites; d_rows[t] += Σ over positions of t of d_h ⊙ s, in f32, ascending order of position.
void stem_backward(const Context&, Out d_gate, const RowGradients& d_rows, In d_h, In gate,
                   const RowPointers& rows);

/// stem_gate: h = SiLU(row(token)) ⊙ up.
void stem_gate_forward(const Context&, Out h, In up, const RowPointers& rows);
void stem_gate_backward(const Context&, Out d_up, const RowGradients& d_rows, In d_h, In up,
                        const RowPointers& rows);

/// stem_additive: h = SiLU(gate) ⊙ (up + row(token)).
void stem_additive_forward(const Context&, Out h, In gate, In up, const RowPointers& rows);
void stem_additive_backward(const Context&, Out d_gate, Out d_up, const RowGradients& d_rows, In d_h, In gate,
                            In up, const RowPointers& rows);

}  // namespace stem
