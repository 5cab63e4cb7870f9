// Attention of training on the tile unit of a CPU (Intel AMX); call only where amx_supported().
#pragma once

#include <span>

#include "core/batch.h"
#include "core/view.h"

namespace stem::cpu {

/// AttentionKernels::attention_forward for bf16: scores, softmax and sums in f32, probabilities rounded to
/// bf16.
void amx_attention_forward(Out y, Out lse, In q, In k, In v, Heads heads, std::span<const Segment> segments);

/// AttentionKernels::attention_backward for bf16.
void amx_attention_backward(Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse, Heads heads,
                            std::span<const Segment> segments);

}  // namespace stem::cpu
