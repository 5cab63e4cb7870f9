// Output head and loss in chunks of rows: logits for the whole batch, [N, V], never exist. The loss is cross
// entropy with the right tokens, or divergence from what a teacher says of the same positions.
#pragma once

#include <cstdint>
#include <span>

#include "ops/context.h"

namespace stem {

/// Rows per chunk: about 32 MiB of logits of this dtype, but at least 32 rows to keep the GEMM busy.
std::int64_t lm_head_chunk_rows(std::int64_t vocab, DType logits);

/// loss [1, N] wide: −log p(targets[n]) under softmax(x · headᵀ), 0 where targets[n] < 0.
/// x [N, D] narrow, head [V, D] narrow. Scratch is one chunk of logits and, for bf16, the packed head; with
/// ctx.inference they come from the batch-invariant kernel.
void lm_head_loss_forward(const Context&, Out loss, In x, const Weight& head,
                          std::span<const std::int32_t> targets);

/// A teacher's distributions over the vocabulary, softmax(x · headᵀ): x [N, D'] narrow, what its head [V, D']
/// narrow reads of the same N positions. Their dtype may be another than the student's of the same wide type.
struct SoftTargets {
  In x = {};
  Weight head = {};

  explicit operator bool() const { return static_cast<bool>(x); }
};

/// The same loss and, in the same pass over the chunks (the logits are not kept), the gradient of Σ
/// weights[n]·loss[n]: d_x [N, D] narrow overwrites, d_head [V, D] wide accumulates (null: skipped). For
/// bf16, four chunks of d_logits are kept, so that d_head is read and written less often.
/// With `soft`, loss[n] is KL(softmax(soft.x · soft.headᵀ) ‖ softmax(x · headᵀ)) in nats instead, 0 where
/// targets[n] < 0; a target's value says nothing more. One chunk of the teacher's logits is held besides, and
/// for bf16 its packed head.
void lm_head_loss_forward_backward(const Context&, Out loss, Out d_x, Out d_head, In x, const Weight& head,
                                   std::span<const std::int32_t> targets, std::span<const float> weights,
                                   const SoftTargets& soft = {});

}  // namespace stem
