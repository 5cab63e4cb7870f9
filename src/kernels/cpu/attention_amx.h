// Attention on the tile unit of a CPU (Intel AMX); call only where amx_supported().
#pragma once

#include <span>

#include "core/batch.h"
#include "core/view.h"

namespace stem::cpu {

/// AttentionKernels::attention_forward and attention_invariant for keys and values in bf16: queries and
/// probabilities are rounded to bf16, scores, softmax and sums are f32. q and y are bf16 or f32. A query's
/// result depends on its own keys alone: they are taken in chunks from the segment's first one on.
void amx_attention_forward(Out y, Out lse, In q, In k, In v, Heads heads, std::span<const Segment> segments);

/// AttentionKernels::attention_backward for bf16.
void amx_attention_backward(Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse, Heads heads,
                            std::span<const Segment> segments);

}  // namespace stem::cpu
