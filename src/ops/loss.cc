#include "ops/loss.h"

#include <algorithm>

#include "ops/checks.h"
#include "ops/linear.h"

namespace stem {
namespace {

/// Softmax runs in this dtype.
DType wide_of(DType narrow) {
  return narrow == DType::f64 ? DType::f64 : DType::f32;
}

void require_loss_shapes(const Context& ctx, const In& loss, const In& x, const Weight& head,
                         std::span<const std::int32_t> targets) {
  require(ctx.workspace != nullptr, "lm_head_loss: a context without workspace");
  require_matrix(x, x.rows, head.in_features(), "lm_head_loss: x is not [N, D]");
  require_wide(loss, 1, x.rows, "lm_head_loss: loss is not wide [1, N]");
  require(targets.size() == static_cast<std::size_t>(x.rows), "lm_head_loss: not one target per row");
  for (const std::int32_t t : targets)
    require(t < head.out_features(), "lm_head_loss: target beyond the vocabulary");
}

void require_soft_targets(const SoftTargets& soft, const In& x, const Weight& head) {
  require(soft.head.out_features() == head.out_features(), "lm_head_loss: a teacher of another vocabulary");
  require_matrix(soft.x, x.rows, soft.head.in_features(), "lm_head_loss: the teacher's x is not [N, D']");
  require(wide_of(soft.head.values.dtype) == wide_of(head.values.dtype),
          "lm_head_loss: logits of teacher and student differ in dtype");
}

/// The rows of one chunk within spans that hold one value per row.
template <class T>
std::span<const T> slice(std::span<const T> values, std::int64_t first, std::int64_t count) {
  return values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

}  // namespace

std::int64_t lm_head_chunk_rows(std::int64_t vocab, DType logits) {
  constexpr std::int64_t kChunkBytes = std::int64_t{32} << 20, kMinRows = 32;
  return std::max(kMinRows, kChunkBytes / (std::max<std::int64_t>(vocab, 1) * size_of(logits)));
}

void lm_head_loss_forward(const Context& ctx, Out loss, In x, const Weight& head,
                          std::span<const std::int32_t> targets) {
  require_loss_shapes(ctx, loss, x, head, targets);
  const DType wide = wide_of(head.values.dtype);
  const std::int64_t vocab = head.out_features(), chunk = std::min(x.rows, lm_head_chunk_rows(vocab, wide));
  const Workspace::Scope scope(*ctx.workspace);
  const PackedWeight packed = pack_weight(ctx, head, false);
  const Out scratch = ctx.workspace->matrix(wide, chunk, vocab);
  for (std::int64_t first = 0; first < x.rows; first += chunk) {
    const std::int64_t count = std::min(chunk, x.rows - first);
    const Out logits = scratch.slice_rows(0, count);
    packed_linear_forward(ctx, logits, x.slice_rows(first, count), packed);
    kernels_of(ctx).loss.softmax_cross_entropy(Out{}, loss.slice_cols(first, count), logits,
                                               slice(targets, first, count), {});
  }
}

void lm_head_loss_forward_backward(const Context& ctx, Out loss, Out d_x, Out d_head, In x,
                                   const Weight& head, std::span<const std::int32_t> targets,
                                   std::span<const float> weights, const SoftTargets& soft) {
  require(!ctx.inference, "lm_head_loss_forward_backward in an inference context");
  require_loss_shapes(ctx, loss, x, head, targets);
  require(weights.size() == targets.size(), "lm_head_loss: not one weight per row");
  if (soft) require_soft_targets(soft, x, head);
  const DType narrow = head.values.dtype, wide = wide_of(narrow);
  const std::int64_t vocab = head.out_features(), chunk = std::min(x.rows, lm_head_chunk_rows(vocab, wide));
  // d_head [V, D] is read and written once a product, so its chunks hold more rows, where they are not the
  // logits' own memory anyway.
  const std::int64_t group = narrow == wide ? chunk : std::min(x.rows, 4 * chunk);
  const Workspace::Scope scope(*ctx.workspace);
  const PackedWeight packed = pack_weight(ctx, head, true);
  const PackedWeight soft_packed = soft ? pack_weight(ctx, soft.head, false) : PackedWeight{};
  const Out scratch = ctx.workspace->matrix(wide, chunk, vocab);
  const Out soft_scratch = soft ? ctx.workspace->matrix(wide, chunk, vocab) : Out{};
  const Out d_scratch = narrow == wide ? scratch : ctx.workspace->matrix(narrow, group, vocab);
  for (std::int64_t start = 0; start < x.rows; start += group) {
    const std::int64_t rows = std::min(group, x.rows - start);
    for (std::int64_t first = start; first < start + rows; first += chunk) {
      const std::int64_t count = std::min(chunk, start + rows - first);
      const Out logits = scratch.slice_rows(0, count), d_logits = d_scratch.slice_rows(first - start, count);
      const Out part = loss.slice_cols(first, count);
      const auto ids = slice(targets, first, count);
      const auto scales = slice(weights, first, count);
      packed_linear_forward(ctx, logits, x.slice_rows(first, count), packed);
      if (soft) {
        const Out teacher = soft_scratch.slice_rows(0, count);
        packed_linear_forward(ctx, teacher, soft.x.slice_rows(first, count), soft_packed);
        kernels_of(ctx).loss.softmax_divergence(d_logits, part, logits, teacher, ids, scales);
      } else {
        kernels_of(ctx).loss.softmax_cross_entropy(d_logits, part, logits, ids, scales);
      }
    }
    packed_linear_backward(ctx, d_x.slice_rows(start, rows), d_head, d_scratch.slice_rows(0, rows),
                           x.slice_rows(start, rows), packed);
  }
}

}  // namespace stem
