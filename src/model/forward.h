// The one forward pass, and its backward. Training, evaluation and generation call these same functions; what
// differs is whether activations are kept for every layer (training) or one layer's memory is used again
// (inference), and whether keys and values come from the batch or from a cache.
#pragma once

#include <span>
#include <vector>

#include "core/batch.h"
#include "model/model.h"
#include "ops/loss.h"
#include "tables/row_plan.h"
#include "tables/token_groups.h"

namespace stem {

/// What a mixture of experts keeps: M rows sorted by expert, of which dispatch.row_count() are in use.
struct ExpertsSaved {
  Dispatch dispatch;
  Out probabilities;  // [N, E] wide     of the router; null in hash_moe, as are lse and mix
  Out lse;            // [1, N] wide     log Σ exp of its logits
  Out mix;            // [N, k] wide     weights of the chosen experts
  Out in;             // [M, D] narrow   rows of normed_ffn
  Out gate_up;        // [M, 2F'] narrow
  Out hidden;         // [M, F'] narrow
  Out out;            // [M, D] narrow   before mixing
};

/// What the backward of one layer reads. N tokens of the batch; Fi = F, or 2F when the layer has gate and up.
struct LayerSaved {
  Out x_in;               // [N, D] wide     residual stream before the layer
  Out inv_rms_attention;  // [1, N] wide
  Out normed_attention;   // [N, D] narrow
  Out qk_raw;             // [N, (H+K)·A] wide  before their norms; null without qk_norm, as is the next
  Out inv_rms_qk;         // [H+K, N] wide
  Out qkv;                // [N, (H+2K)·A] narrow, q and k rotated
  Out attended;           // [N, H·A] narrow
  Out lse;                // [N, H] wide     null in inference
  Out x_mid;              // [N, D] wide     residual stream between attention and FFN
  Out inv_rms_ffn;        // [1, N] wide
  Out normed_ffn;         // [N, D] narrow
  Out gate_up;            // [N, Fi] narrow  before the gated product
  Out hidden;             // [N, F] narrow   after it
  ExpertsSaved experts;   // in place of the two in a mixture of experts
};

/// What the mixture layers of one pass did; all zero without such layers and, but for `seconds`, in
/// inference.
struct RouterStats {
  std::int64_t layers = 0;  ///< mixture layers of the pass
  double balance_loss = 0;  ///< summed over layers, coefficient included (ops/moe.h)
  double z_loss = 0;        ///< summed over layers, coefficient included
  double entropy = 0;       ///< nats, mean over layers: of the router's softmax; in hash_moe of the load
  double load_ratio = 0;    ///< largest load of an expert / mean load, the largest over layers
  double seconds = 0;       ///< in routers and in moving rows; backward adds its own

  double auxiliary_loss() const { return balance_loss + z_loss; }
};

/// Activations of a whole pass, in the context's workspace.
struct Activations {
  std::vector<LayerSaved> layers;  // [L]; every entry is the same memory where no backward follows
  Out x;                   // [N, D] wide  residual stream; after forward_hidden: the last layer's output
  Out inv_rms_final;       // [1, N] wide
  Out normed_final;        // [N, D] narrow, what the head reads
  RouterStats router;      // filled by forward_hidden and backward
  double stream_loss = 0;  // Σ_n weights[n] · 1/(L + 1) Σ over the L + 1 streams of their relative squared
                           // difference from the teacher's; by backward. Streams that nothing trained makes
                           // count as zero, but for the highest of them where an attention trains lowest.
};

/// Keys and values of earlier tokens, one matrix a layer: [capacity, K·Heads::stored_width]. Segments address
/// its rows.
struct KvCache {
  Buffer memory;                  ///< of all layers: one, so that its pages are large
  std::vector<Out> keys, values;  // [L]

  KvCache() = default;
  /// Of Model::cache_dtype.
  KvCache(const Model& model, std::int64_t capacity);
  /// Bytes of one token's keys and values in all layers.
  static std::int64_t row_bytes(const Model& model);
  /// Copies rows [from, from + count) to [to, to + count), which must not overlap.
  void copy_rows(std::int64_t from, std::int64_t to, std::int64_t count);
  std::int64_t capacity() const { return keys.empty() ? 0 : keys.front().rows; }
};

/// Takes the memory of a pass over `n` tokens from ctx.workspace. Activations are narrow in training and wide
/// in inference (ctx.inference), where one layer's memory serves all.
Activations allocate_activations(const Context& ctx, const Model& model, std::int64_t n);

/// The same for a pass in training's precision that no backward follows: one layer's memory serves all.
Activations allocate_forward_activations(const Context& ctx, const Model& model, std::int64_t n);

/// Takes the memory of one layer for `n` tokens in training, of any layer but a mixture: for passes that go
/// over all of a text with one layer before the next.
LayerSaved allocate_layer_pass(const Context& ctx, const Model& model, std::int64_t n);

/// x [N, D] wide: where the residual stream starts.
void forward_embedding(const Context& ctx, const Model& model, const TokenBatch& batch, Out x);

/// The two halves of layer l alone, in training, not of a mixture: first x_mid from x_in, then x_out from
/// x_mid. Each may be written in place: x_mid may be x_in, x_out may be x_mid. A null x_out stops at
/// s.hidden. `s` keeps what they read and made.
void forward_attention(const Context& ctx, const Model& model, std::int64_t l, const TokenBatch& batch,
                       LayerSaved& s);
void forward_ffn(const Context& ctx, const Model& model, std::int64_t l, const RowPlan& rows, LayerSaved& s,
                 Out x_out);

/// a.normed_final of a.x: what follows the last layer.
void forward_final_norm(const Context& ctx, const Model& model, Activations& a);

/// Runs all layers; a.normed_final [N, D] is the result. With a cache, new keys and values are written to
/// rows [k_row + k_len − q_len, k_row + k_len) of each segment and the attention reads the cache. Throws
/// RecordError when rows cannot be had; a and the new rows of the cache are void then.
void forward_hidden(const Context& ctx, const Model& model, const TokenBatch& batch, const RowPlan& rows,
                    Activations& a, KvCache* cache = nullptr);

/// What a student learns of a teacher's pass over its batch, in ctx.workspace.
struct TeacherPass {
  SoftTargets says;          ///< at every position
  std::vector<In> streams;   ///< [L + 1] of [N, D] wide: before each layer, and behind the last; may be empty
  double stream_weight = 0;  ///< of Activations::stream_loss in what the backward makes gradients of
};

/// A pass without backward, in training's precision. With a `stream_weight` above zero its residual streams
/// are kept, for a student of the same layers and width.
TeacherPass ask_teacher(const Context& ctx, const Model& teacher, const TokenBatch& batch,
                        const RowPlan& rows, double stream_weight = 0);

/// Logits [M, V] wide of the given rows of a.normed_final.
void forward_logits(const Context& ctx, const Model& model, const Activations& a,
                    std::span<const std::int64_t> at, Out logits);

/// Per-token loss [1, N] wide without gradients. Targets < 0 are ignored.
void forward_loss(const Context& ctx, const Model& model, const Activations& a,
                  std::span<const std::int32_t> targets, Out loss);

/// Gradients of Σ weights[n]·loss[n] + auxiliary_weight · RouterStats::auxiliary_loss().
struct Gradients {
  double auxiliary_weight = 1.0;  ///< a batch's share of the step where several batches make one
  bool fixed_first = false;       ///< states at position 0 are constants: no gradient flows down from them
  DenseTensors dense;             ///< wide, accumulate; of frozen tensors without meaning
  DenseViews wanted;              ///< what of `dense` the backward computes: null where all is frozen
  Out rows;       ///< [R, S·F] wide, row r is the gradient of distinct token r's record; accumulates
  Out embedding;  ///< [R, D] wide, only when untied; accumulates
};

/// Zeroes gradients.dense as far as it is wanted and takes zeroed row gradients for `groups` from
/// ctx.workspace. Frozen rows keep their width and get no memory: the backward then leaves them out
/// (TokenGroups::gradients).
void prepare_gradients(const Context& ctx, const Model& model, const TokenGroups& groups,
                       Gradients& gradients, const FrozenTensors& frozen = {});

/// Loss per token [1, N] (without auxiliary losses) and all gradients that are wanted, after forward_hidden
/// on the same batch in training mode. Goes down to the lowest layer in which something trains. With a
/// teacher the loss is the divergence from what it says (ops/loss.h), and targets say which positions count;
/// where its streams are to be matched (ops/stream_match.h), all positions do.
void backward(const Context& ctx, const Model& model, const TokenBatch& batch, const RowPlan& rows,
              const TokenGroups& groups, Activations& a, std::span<const std::int32_t> targets,
              std::span<const float> weights, Out loss, Gradients& gradients,
              const TeacherPass& teacher = {});

}  // namespace stem
