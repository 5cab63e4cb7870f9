#include "model/forward.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "model/experts.h"
#include "ops/attention.h"
#include "ops/embedding.h"
#include "ops/glu.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/norm.h"
#include "ops/stream_match.h"

namespace stem {
namespace {

// The halves of gate_up; null where the variant has none.
struct GateUp {
  Out gate, up;
};
GateUp halves(FfnVariant ffn, std::int64_t f, Out gate_up) {
  switch (ffn) {
    case FfnVariant::stem:
      return {gate_up, {}};
    case FfnVariant::stem_gate:
      return {{}, gate_up};
    default:
      return {gate_up.slice_cols(0, f), gate_up.slice_cols(f, f)};
  }
}

struct Qkv {
  Out q, k, v;
  Out qk;  // q and k together
};
Qkv split(const ModelConfig& c, Out qkv) {
  const std::int64_t q = c.heads * c.head_width, kv = c.kv_heads * c.head_width;
  return {qkv.slice_cols(0, q), qkv.slice_cols(q, kv), qkv.slice_cols(q + kv, kv), qkv.slice_cols(0, q + kv)};
}

void append_to_cache(const Context& ctx, const TokenBatch& batch, In k, In v, Heads heads, Out keys,
                     Out values) {
  for (const Segment& s : batch.segments) {
    const std::int64_t first = s.k_row + s.k_len - s.q_len;
    require(first >= s.k_row && first + s.q_len <= keys.rows, "KV cache overflow");
    store_keys(ctx, keys.slice_rows(first, s.q_len), k.slice_rows(s.q_row, s.q_len), heads);
    store_keys(ctx, values.slice_rows(first, s.q_len), v.slice_rows(s.q_row, s.q_len), heads);
  }
}

// What a cache would give back for them.
In as_cached(const Context& ctx, In m, Heads heads, DType dtype) {
  if (m.dtype == dtype) return m;
  const Out stored = ctx.workspace->matrix(dtype, m.rows, heads.key_value * heads.stored_width(dtype));
  store_keys(ctx, stored, m, heads);
  return stored;
}

// q, k, v = W x̂ + b, and with qk_norm RMSNorm of every head of q and k.
void project_qkv(const Context& ctx, const Model& model, std::size_t l, const Qkv& now, const LayerSaved& s) {
  const ModelConfig& c = model.config;
  const LayerWeights w = model.layer_weights(l);
  const LayerTensors& wide = model.weights.layers[l];
  if (!c.qk_norm) {
    linear_forward(ctx, s.qkv, s.normed_attention, w.qkv);
    if (c.qkv_bias) add_bias_forward(ctx, s.qkv, wide.qkv_bias);
    return;
  }
  const std::int64_t qk = now.qk.cols, v = now.v.cols, q = now.q.cols, k = now.k.cols;
  linear_forward(ctx, s.qk_raw, s.normed_attention, w.qk);
  linear_forward(ctx, now.v, s.normed_attention, w.v);
  if (c.qkv_bias) {
    add_bias_forward(ctx, s.qk_raw, wide.qkv_bias.slice_cols(0, qk));
    add_bias_forward(ctx, now.v, wide.qkv_bias.slice_cols(qk, v));
  }
  const auto inverse = [&](std::int64_t first, std::int64_t count) {
    return s.inv_rms_qk ? s.inv_rms_qk.slice_rows(first, count) : Out{};
  };
  head_norm_forward(ctx, now.q, inverse(0, c.heads), s.qk_raw.slice_cols(0, q), wide.q_norm, c.norm_eps);
  head_norm_forward(ctx, now.k, inverse(c.heads, c.kv_heads), s.qk_raw.slice_cols(q, k), wide.k_norm,
                    c.norm_eps);
}

// d_qkv becomes the gradient of the products: what project_qkv did after them is undone.
void project_qkv_backward(const Context& ctx, const Model& model, std::size_t l, Out d_qkv,
                          const LayerSaved& s, const LayerTensors& d_w) {
  const ModelConfig& c = model.config;
  if (c.qk_norm) {
    Workspace::Scope scope(*ctx.workspace);
    const LayerTensors& wide = model.weights.layers[l];
    const Qkv d = split(c, d_qkv);
    const std::int64_t q = d.q.cols, k = d.k.cols;
    const Out d_raw = ctx.workspace->matrix(model.precision.wide, s.qk_raw.rows, q + k);
    std::memset(d_raw.data, 0, static_cast<std::size_t>(d_raw.size() * size_of(d_raw.dtype)));
    head_norm_backward(ctx, d_raw.slice_cols(0, q), d.q, d_w.q_norm, d.q, s.qk_raw.slice_cols(0, q),
                       wide.q_norm, s.inv_rms_qk.slice_rows(0, c.heads));
    head_norm_backward(ctx, d_raw.slice_cols(q, k), d.k, d_w.k_norm, d.k, s.qk_raw.slice_cols(q, k),
                       wide.k_norm, s.inv_rms_qk.slice_rows(c.heads, c.kv_heads));
  }
  if (c.qkv_bias) add_bias_backward(ctx, d_w.qkv_bias, d_qkv);
}

// x_mid = x_in + W_o · attention(RMSNorm(x_in))
void attention_layer_forward(const Context& ctx, const Model& model, std::size_t l, const TokenBatch& batch,
                             const LayerSaved& s, KvCache* cache) {
  const ModelConfig& c = model.config;
  const LayerWeights w = model.layer_weights(l);
  rms_norm_forward(ctx, s.normed_attention, s.inv_rms_attention, s.x_in,
                   model.weights.layers[l].attention_norm, c.norm_eps);
  const Qkv now = split(c, s.qkv);
  project_qkv(ctx, model, l, now, s);
  rope_forward(ctx, now.qk, c.heads + c.kv_heads, model.cos_sin, batch.positions);
  Workspace::Scope scope(*ctx.workspace);
  const Heads heads = c.attention_heads();
  In keys = now.k, values = now.v;
  if (cache != nullptr) {
    append_to_cache(ctx, batch, now.k, now.v, heads, cache->keys[l], cache->values[l]);
    keys = cache->keys[l];
    values = cache->values[l];
  } else if (ctx.inference) {
    // The same bits as through a cache.
    keys = as_cached(ctx, keys, heads, model.cache_dtype());
    values = as_cached(ctx, values, heads, model.cache_dtype());
  }
  attention_forward(ctx, s.attended, s.lse, now.q, keys, values, heads, batch.segments);
  linear_forward(ctx, s.x_mid, s.attended, w.o, s.x_in);
}

// h = the gated product of the layer's variant
void gated_product(const Context& ctx, FfnVariant ffn, const GateUp& in, const RowPlan& rows,
                   std::int64_t stem_index, Out h) {
  switch (ffn) {
    case FfnVariant::dense:
      return swiglu_forward(ctx, h, in.gate, in.up);
    case FfnVariant::stem:
      return stem_forward(ctx, h, in.gate, rows.acquire(stem_index));
    case FfnVariant::stem_gate:
      return stem_gate_forward(ctx, h, in.up, rows.acquire(stem_index));
    case FfnVariant::stem_additive:
      return stem_additive_forward(ctx, h, in.gate, in.up, rows.acquire(stem_index));
    case FfnVariant::hash_moe:
    case FfnVariant::moe:
      break;
  }
  require(false, "a mixture of experts has no gated product of its own");
}

// x_out = x_mid + W_d · h,  h = SiLU(W_g x̂) ⊙ U_l[t] in a STEM layer; a null x_out: h alone
void gated_ffn_forward(const Context& ctx, const Model& model, std::size_t l, const RowPlan& rows, Out x_out,
                       const LayerSaved& s) {
  const ModelConfig& c = model.config;
  const LayerWeights w = model.layer_weights(l);
  const auto layer = static_cast<std::int64_t>(l);
  const FfnVariant ffn = c.ffn_of(layer);
  linear_forward(ctx, s.gate_up, s.normed_ffn, w.gate_up);
  gated_product(ctx, ffn, halves(ffn, c.ffn, s.gate_up), rows, c.stem_index(layer), s.hidden);
  if (x_out) linear_forward(ctx, x_out, s.hidden, w.down, s.x_mid);
}

void ffn_layer_forward(const Context& ctx, const Model& model, std::size_t l, const TokenBatch& batch,
                       const RowPlan& rows, Out x_out, LayerSaved& s, RouterStats& stats) {
  const ModelConfig& c = model.config;
  rms_norm_forward(ctx, s.normed_ffn, s.inv_rms_ffn, s.x_mid, model.weights.layers[l].ffn_norm, c.norm_eps);
  if (c.is_mixture(static_cast<std::int64_t>(l))) {
    if (x_out.data != s.x_mid.data) convert(ctx, x_out, s.x_mid);
    experts_forward(ctx, model, l, batch, x_out, s, stats);
  } else {
    gated_ffn_forward(ctx, model, l, rows, x_out, s);
  }
}

// The residual gradient, and its narrow copy for the products (the same view where narrow is wide).
struct ResidualGradient {
  Out wide, narrow;
  // What rms_norm_backward is to keep up to date.
  Out copy() const { return narrow.data == wide.data ? Out{} : narrow; }
};

// d_normed [N, D] narrow from the residual gradient.
void gated_ffn_backward(const Context& ctx, const Model& model, std::size_t l, const RowPlan& rows,
                        const TokenGroups& groups, Out d_normed, const ResidualGradient& d_x,
                        const LayerSaved& s, Gradients& g) {
  const ModelConfig& c = model.config;
  const LayerWeights w = model.layer_weights(l);
  const LayerTensors& d_w = g.wanted.layers[l];
  const auto layer = static_cast<std::int64_t>(l);
  const FfnVariant ffn = c.ffn_of(layer);
  const DType narrow = model.precision.narrow;
  Workspace::Scope scope(*ctx.workspace);

  const std::int64_t n = d_x.wide.rows;
  const Out d_hidden = ctx.workspace->matrix(narrow, n, c.ffn);
  linear_backward(ctx, d_hidden, d_w.down, d_x.narrow, s.hidden, w.down);

  const Out d_gate_up = ctx.workspace->matrix(narrow, n, s.gate_up.cols);
  const GateUp in = halves(ffn, c.ffn, s.gate_up), d_in = halves(ffn, c.ffn, d_gate_up);
  const std::int64_t stem_index = c.stem_index(layer);
  const RowGradients d_rows =
      stem_index < 0 ? RowGradients{} : groups.gradients(g.rows, stem_index * c.ffn, c.ffn);
  switch (ffn) {
    case FfnVariant::dense:
      swiglu_backward(ctx, d_in.gate, d_in.up, d_hidden, in.gate, in.up);
      break;
    case FfnVariant::stem:
      stem_backward(ctx, d_in.gate, d_rows, d_hidden, in.gate, rows.acquire(stem_index));
      break;
    case FfnVariant::stem_gate:
      stem_gate_backward(ctx, d_in.up, d_rows, d_hidden, in.up, rows.acquire(stem_index));
      break;
    case FfnVariant::stem_additive:
      stem_additive_backward(ctx, d_in.gate, d_in.up, d_rows, d_hidden, in.gate, in.up,
                             rows.acquire(stem_index));
      break;
    case FfnVariant::hash_moe:
    case FfnVariant::moe:
      require(false, "a mixture of experts has no gated product of its own");
  }
  linear_backward(ctx, d_normed, d_w.gate_up, d_gate_up, s.normed_ffn, w.gate_up);
}

void ffn_layer_backward(const Context& ctx, const Model& model, std::size_t l, const RowPlan& rows,
                        const TokenGroups& groups, const ResidualGradient& d_x, const LayerSaved& s,
                        Gradients& g, RouterStats& stats) {
  Workspace::Scope scope(*ctx.workspace);
  const Out d_normed = ctx.workspace->matrix(model.precision.narrow, d_x.wide.rows, d_x.wide.cols);
  if (model.config.is_mixture(static_cast<std::int64_t>(l)))
    experts_backward(ctx, model, l, d_normed, d_x.wide, s, g, stats);
  else
    gated_ffn_backward(ctx, model, l, rows, groups, d_normed, d_x, s, g);
  rms_norm_backward(ctx, d_x.wide, d_x.copy(), g.wanted.layers[l].ffn_norm, d_normed, s.x_mid,
                    model.weights.layers[l].ffn_norm, s.inv_rms_ffn);
}

void attention_layer_backward(const Context& ctx, const Model& model, std::size_t l, const TokenBatch& batch,
                              const ResidualGradient& d_x, const LayerSaved& s, Gradients& g) {
  const ModelConfig& c = model.config;
  const LayerWeights w = model.layer_weights(l);
  const LayerTensors& d_w = g.wanted.layers[l];
  const DType narrow = model.precision.narrow;
  Workspace::Scope scope(*ctx.workspace);
  const std::int64_t n = d_x.wide.rows;

  const Out d_attended = ctx.workspace->matrix(narrow, n, c.heads * c.head_width);
  linear_backward(ctx, d_attended, d_w.o, d_x.narrow, s.attended, w.o);

  const Out d_qkv = ctx.workspace->matrix(narrow, n, c.qkv_width());
  const Qkv in = split(c, s.qkv), d_in = split(c, d_qkv);
  attention_backward(ctx, d_in.q, d_in.k, d_in.v, d_attended, in.q, in.k, in.v, s.attended, s.lse,
                     c.attention_heads(), batch.segments);
  rope_backward(ctx, d_in.qk, c.heads + c.kv_heads, model.cos_sin, batch.positions);
  project_qkv_backward(ctx, model, l, d_qkv, s, d_w);

  const Out d_normed = ctx.workspace->matrix(narrow, n, c.width);
  linear_backward(ctx, d_normed, d_w.qkv, d_qkv, s.normed_attention, w.qkv);
  rms_norm_backward(ctx, d_x.wide, d_x.copy(), d_w.attention_norm, d_normed, s.x_in,
                    model.weights.layers[l].attention_norm, s.inv_rms_attention);
}

// Whether a backward will read what a pass leaves.
enum class Keep { yes, no };

// What all layers have: everything but the FFN between its norm and the residual stream.
LayerSaved allocate_layer(const Context& ctx, const Model& model, std::int64_t n, Keep keep) {
  const ModelConfig& c = model.config;
  const DType wide = model.precision.wide;
  const DType narrow = ctx.inference ? wide : model.precision.narrow;
  Workspace& memory = *ctx.workspace;
  LayerSaved s;
  if (keep == Keep::yes) {
    s.x_in = memory.matrix(wide, n, c.width);
    s.x_mid = memory.matrix(wide, n, c.width);
    s.inv_rms_attention = memory.matrix(wide, 1, n);
    s.inv_rms_ffn = memory.matrix(wide, 1, n);
    s.lse = memory.matrix(wide, n, c.heads);
  }
  if (c.qk_norm) {
    s.qk_raw = memory.matrix(wide, n, (c.heads + c.kv_heads) * c.head_width);
    if (keep == Keep::yes) s.inv_rms_qk = memory.matrix(wide, c.heads + c.kv_heads, n);
  }
  s.normed_attention = memory.matrix(narrow, n, c.width);
  s.qkv = memory.matrix(narrow, n, c.qkv_width());
  s.attended = memory.matrix(narrow, n, c.heads * c.head_width);
  s.normed_ffn = memory.matrix(narrow, n, c.width);
  return s;
}

void allocate_gated_ffn(const Context& ctx, const Model& model, std::int64_t gate_up_width, LayerSaved& s) {
  const DType narrow = s.normed_ffn.dtype;
  s.gate_up = ctx.workspace->matrix(narrow, s.normed_ffn.rows, gate_up_width);
  s.hidden = ctx.workspace->matrix(narrow, s.normed_ffn.rows, model.config.ffn);
}

// Memory for any layer's gate and up becomes layer l's, as if it were its own.
void fit_gate_up(const Model& model, std::int64_t l, LayerSaved& s) {
  const std::int64_t width = model.layer_weights(static_cast<std::size_t>(l)).gate_up.out_features();
  s.gate_up = {s.gate_up.data, s.gate_up.dtype, s.gate_up.rows, width, width};
}

// What is not a layer's.
Activations allocate_ends(const Context& ctx, const Model& model, std::int64_t n) {
  const DType wide = model.precision.wide, narrow = ctx.inference ? wide : model.precision.narrow;
  Activations a;
  a.x = ctx.workspace->matrix(wide, n, model.config.width);
  a.inv_rms_final = ctx.workspace->matrix(wide, 1, n);
  a.normed_final = ctx.workspace->matrix(narrow, n, model.config.width);
  return a;
}

// The parts of the backward, from the bottom: 2l is layer l's attention, 2l + 1 its FFN. Returns the lowest
// part in which something trains, 2L where none does; below it nobody reads the residual gradient.
std::size_t lowest_trained_part(const ModelConfig& c, const Gradients& g) {
  if (c.tied ? static_cast<bool>(g.wanted.head) : static_cast<bool>(g.embedding)) return 0;
  const auto any = [](std::initializer_list<Out> views) {
    return std::any_of(views.begin(), views.end(), [](const Out& view) { return static_cast<bool>(view); });
  };
  for (std::size_t l = 0; l < g.wanted.layers.size(); ++l) {
    const LayerTensors& t = g.wanted.layers[l];
    if (any({t.attention_norm, t.qkv, t.qkv_bias, t.q_norm, t.k_norm, t.o})) return 2 * l;
    const bool rows = g.rows && c.stem_index(static_cast<std::int64_t>(l)) >= 0;
    if (rows || any({t.ffn_norm, t.gate_up, t.down, t.router, t.experts_gate_up, t.experts_down}))
      return 2 * l + 1;
  }
  return 2 * g.wanted.layers.size();
}

}  // namespace

void forward_embedding(const Context& ctx, const Model& model, const TokenBatch& batch, Out x) {
  if (model.served) return embedding_forward(ctx, x, model.served_embedding(), batch.tokens);
  Workspace::Scope scope(*ctx.workspace);
  const In table = model.embed_tokens();
  auto* pointers = ctx.workspace->array<RowPointer>(batch.size());
  for (std::int64_t i = 0; i < batch.size(); ++i) {
    const std::int32_t token = batch.tokens[static_cast<std::size_t>(i)];
    require(token >= 0 && token < table.rows, "token id outside the vocabulary");
    pointers[i] = {table.slice_rows(token, 1).data, 1.0f, table.dtype};
  }
  embedding_forward(ctx, x, {pointers, batch.size(), table.cols});
}

KvCache::KvCache(const Model& model, std::int64_t capacity) {
  const ModelConfig& c = model.config;
  const DType dtype = model.cache_dtype();
  const std::int64_t cols = c.kv_heads * c.attention_heads().stored_width(dtype),
                     bytes = capacity * cols * size_of(dtype);
  const std::int64_t aligned = (bytes + 63) / 64 * 64;
  memory = Buffer(static_cast<std::size_t>(2 * c.layers * aligned));
  memory.clear();
  auto* next = static_cast<char*>(memory.data());
  for (std::int64_t l = 0; l < c.layers; ++l) {
    for (auto* side : {&keys, &values}) {
      side->push_back({next, dtype, capacity, cols, cols});
      next += aligned;
    }
  }
}

std::int64_t KvCache::row_bytes(const Model& model) {
  const ModelConfig& c = model.config;
  const DType dtype = model.cache_dtype();
  return c.layers * 2 * c.kv_heads * c.attention_heads().stored_width(dtype) * size_of(dtype);
}

void KvCache::copy_rows(std::int64_t from, std::int64_t to, std::int64_t count) {
  for (const auto* side : {&keys, &values}) {
    for (const Out& m : *side) {
      std::memcpy(m.slice_rows(to, count).data, m.slice_rows(from, count).data,
                  static_cast<std::size_t>(count * m.stride * size_of(m.dtype)));
    }
  }
}

Activations allocate_activations(const Context& ctx, const Model& model, std::int64_t n) {
  if (ctx.inference) return allocate_forward_activations(ctx, model, n);
  const ModelConfig& c = model.config;
  Activations a = allocate_ends(ctx, model, n);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    LayerSaved& s = a.layers.emplace_back(allocate_layer(ctx, model, n, Keep::yes));
    if (c.is_mixture(l))
      s.experts = allocate_experts(ctx, model, n);
    else
      allocate_gated_ffn(ctx, model, model.weights.layers[static_cast<std::size_t>(l)].gate_up.rows, s);
  }
  return a;
}

Activations allocate_forward_activations(const Context& ctx, const Model& model, std::int64_t n) {
  const ModelConfig& c = model.config;
  Activations a = allocate_ends(ctx, model, n);
  LayerSaved shared = allocate_layer(ctx, model, n, Keep::no);
  shared.x_in = shared.x_mid = a.x;  // one residual stream: nothing reads it later
  allocate_gated_ffn(ctx, model, 2 * c.ffn, shared);
  if (c.has_experts()) shared.experts = allocate_experts(ctx, model, n);
  for (std::int64_t l = 0; l < c.layers; ++l) {
    a.layers.push_back(shared);
    if (!c.is_mixture(l)) fit_gate_up(model, l, a.layers.back());
  }
  return a;
}

LayerSaved allocate_layer_pass(const Context& ctx, const Model& model, std::int64_t n) {
  LayerSaved s = allocate_layer(ctx, model, n, Keep::yes);
  allocate_gated_ffn(ctx, model, 2 * model.config.ffn, s);
  return s;
}

void forward_attention(const Context& ctx, const Model& model, std::int64_t l, const TokenBatch& batch,
                       LayerSaved& s) {
  require(!ctx.inference, "forward_attention: in training");
  attention_layer_forward(ctx, model, static_cast<std::size_t>(l), batch, s, nullptr);
}

void forward_ffn(const Context& ctx, const Model& model, std::int64_t l, const RowPlan& rows, LayerSaved& s,
                 Out x_out) {
  require(!ctx.inference && !model.config.is_mixture(l), "forward_ffn: in training, no mixture of experts");
  fit_gate_up(model, l, s);
  RouterStats none;
  ffn_layer_forward(ctx, model, static_cast<std::size_t>(l), {}, rows, x_out, s, none);
}

void forward_final_norm(const Context& ctx, const Model& model, Activations& a) {
  rms_norm_forward(ctx, a.normed_final, a.inv_rms_final, a.x, model.weights.final_norm,
                   model.config.norm_eps);
}

void forward_hidden(const Context& ctx, const Model& model, const TokenBatch& batch, const RowPlan& rows,
                    Activations& a, KvCache* cache) {
  rows.prefetch();
  forward_embedding(ctx, model, batch, a.layers.front().x_in);
  a.router = {};
  for (std::size_t l = 0; l < a.layers.size(); ++l) {
    attention_layer_forward(ctx, model, l, batch, a.layers[l], cache);
    const Out x_out = l + 1 < a.layers.size() ? a.layers[l + 1].x_in : a.x;
    ffn_layer_forward(ctx, model, l, batch, rows, x_out, a.layers[l], a.router);
  }
  forward_final_norm(ctx, model, a);
  rows.verify();
}

TeacherPass ask_teacher(const Context& ctx, const Model& teacher, const TokenBatch& batch,
                        const RowPlan& rows, double stream_weight) {
  require(!ctx.inference, "ask_teacher: in training");
  const auto matrix = [&](DType dtype) {
    return ctx.workspace->matrix(dtype, batch.size(), teacher.config.width);
  };
  const Out normed = matrix(teacher.precision.narrow);
  std::vector<Out> streams(stream_weight > 0 ? static_cast<std::size_t>(teacher.config.layers) : 0);
  for (Out& x : streams) x = matrix(teacher.precision.wide);
  const Out last = streams.empty() ? Out{} : matrix(teacher.precision.wide);
  {
    const Workspace::Scope scope(*ctx.workspace);
    Activations a = allocate_forward_activations(ctx, teacher, batch.size());
    a.normed_final = normed;
    if (last) a.x = last;
    for (std::size_t l = 0; l < streams.size(); ++l) a.layers[l].x_in = streams[l], a.layers[l].x_mid = last;
    forward_hidden(ctx, teacher, batch, rows, a);
  }
  TeacherPass pass{{normed, teacher.head_weight()}, {streams.begin(), streams.end()}, stream_weight};
  if (last) pass.streams.push_back(last);
  return pass;
}

void forward_logits(const Context& ctx, const Model& model, const Activations& a,
                    std::span<const std::int64_t> at, Out logits) {
  Workspace::Scope scope(*ctx.workspace);
  const Out picked =
      ctx.workspace->matrix(a.normed_final.dtype, static_cast<std::int64_t>(at.size()), a.normed_final.cols);
  for (std::size_t i = 0; i < at.size(); ++i) {
    std::memcpy(picked.slice_rows(static_cast<std::int64_t>(i), 1).data,
                a.normed_final.slice_rows(at[i], 1).data,
                static_cast<std::size_t>(picked.cols * size_of(picked.dtype)));
  }
  linear_forward(ctx, logits, picked, model.head_weight());
}

void forward_loss(const Context& ctx, const Model& model, const Activations& a,
                  std::span<const std::int32_t> targets, Out loss) {
  lm_head_loss_forward(ctx, loss, a.normed_final, model.head_weight(), targets);
}

void prepare_gradients(const Context& ctx, const Model& model, const TokenGroups& groups, Gradients& g,
                       const FrozenTensors& frozen) {
  const ModelConfig& c = model.config;
  const DType wide = model.precision.wide;
  if (!g.dense.flat) g.dense = DenseTensors(c, wide);
  g.wanted = without_frozen(c, g.dense, frozen);
  for_each_block(g.wanted, [](const Out& m) {
    std::memset(m.data, 0, static_cast<std::size_t>(m.size() * size_of(m.dtype)));
  });
  const auto zeroed = [&](bool without, std::int64_t cols) {
    if (without) return Out{nullptr, wide, 0, cols, cols};
    const Out m = ctx.workspace->matrix(wide, groups.distinct(), cols);
    std::memset(m.data, 0, static_cast<std::size_t>(m.size() * size_of(wide)));
    return m;
  };
  g.rows = c.stem_layer_count() > 0 ? zeroed(frozen.table, c.table_shape().record()) : Out{};
  g.embedding = c.tied ? Out{} : zeroed(frozen.embedding, c.width);
}

namespace {

// See Gradients::fixed_first.
void clear_first_positions(const TokenBatch& batch, const ResidualGradient& d_x) {
  for (std::int64_t n = 0; n < batch.size(); ++n) {
    if (batch.positions[static_cast<std::size_t>(n)] != 0) continue;
    for (const Out& m : {d_x.wide, d_x.narrow})
      std::memset(m.slice_rows(n, 1).data, 0, static_cast<std::size_t>(m.cols * size_of(m.dtype)));
  }
}

double weighted_sum(In values, std::span<const float> weights) {
  double sum = 0;
  for (std::size_t n = 0; n < weights.size(); ++n)
    sum += static_cast<double>(weights[n]) * (values.dtype == DType::f64
                                                  ? values.row<double>(0)[n]
                                                  : static_cast<double>(values.row<float>(0)[n]));
  return sum;
}

}  // namespace

void backward(const Context& ctx, const Model& model, const TokenBatch& batch, const RowPlan& rows,
              const TokenGroups& groups, Activations& a, std::span<const std::int32_t> targets,
              std::span<const float> weights, Out loss, Gradients& g, const TeacherPass& teacher) {
  require(!ctx.inference, "backward needs a training pass");
  const ModelConfig& c = model.config;
  Workspace::Scope scope(*ctx.workspace);
  const std::int64_t n = batch.size();

  const Out d_normed = ctx.workspace->matrix(model.precision.narrow, n, c.width);
  lm_head_loss_forward_backward(ctx, loss, d_normed, g.wanted.head, a.normed_final, model.head_weight(),
                                targets, weights, teacher.says);
  ResidualGradient d_x;
  d_x.wide = ctx.workspace->matrix(model.precision.wide, n, c.width);
  d_x.narrow = model.precision.narrow == model.precision.wide
                   ? d_x.wide
                   : ctx.workspace->matrix(model.precision.narrow, n, c.width);
  std::memset(d_x.wide.data, 0, static_cast<std::size_t>(d_x.wide.size() * size_of(d_x.wide.dtype)));
  rms_norm_backward(ctx, d_x.wide, d_x.copy(), g.wanted.final_norm, d_normed, a.x, model.weights.final_norm,
                    a.inv_rms_final);

  a.stream_loss = 0;
  std::vector<float> stream_weights(weights.begin(), weights.end());
  const auto streams = static_cast<double>(teacher.streams.size());
  for (float& w : stream_weights) w *= static_cast<float>(teacher.stream_weight / std::max(streams, 1.0));
  const auto match = [&](std::size_t l, In x) {
    if (teacher.streams.empty()) return;
    const Workspace::Scope inner(*ctx.workspace);
    const Out off = ctx.workspace->matrix(model.precision.wide, 1, n);
    match_stream(ctx, off, d_x.wide, d_x.copy(), x, teacher.streams[l], stream_weights);
    a.stream_loss += weighted_sum(off, weights) / streams;
  };
  match(a.layers.size(), a.x);
  const std::size_t lowest = lowest_trained_part(c, g);
  for (std::size_t part = 2 * a.layers.size(); part-- > lowest;) {
    const std::size_t l = part / 2;
    if (g.fixed_first) clear_first_positions(batch, d_x);
    if (part % 2 == 1) {
      ffn_layer_backward(ctx, model, l, rows, groups, d_x, a.layers[l], g, a.router);
    } else {
      attention_layer_backward(ctx, model, l, batch, d_x, a.layers[l], g);
      match(l, a.layers[l].x_in);
    }
  }
  if (g.fixed_first) clear_first_positions(batch, d_x);
  if (g.wanted.head && c.tied)
    embedding_backward_dense(ctx, g.wanted.head, groups.gradients({}, 0, c.width), groups.tokens(), d_x.wide);
  else if (g.embedding)
    embedding_backward(ctx, groups.gradients(g.embedding, 0, c.width), d_x.wide);
}

}  // namespace stem
