// Attention backward: recomputes the probabilities from lse, one (segment, key/value head) a work item.
//
// Transposed like the forward (a query a lane), with D_i = Σ_a d_y[i,a] y[i,a]:
//   Pᵀ = exp(K Qᵀ/√A − lse)    dPᵀ = V d_Yᵀ    dSᵀ = Pᵀ ⊙ (dPᵀ − D)
//   d_V += Pᵀ d_Y    d_K += dSᵀ Q/√A    d_Qᵀ = Kᵀ dSᵀ /√A
// The query heads that share a key/value head are taken one after the other, so every sum has one order.
#include <omp.h>

#include <cmath>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_backward.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kQueryBlock = 64;
constexpr std::int64_t kKeyBlock = 32;

/// Scratch of one thread; P is A rounded up to whole vectors, T the longest segment's length.
struct Scratch {
  Tile queries_t, d_outputs_t;  // [A, queries]
  Tile queries, d_outputs;      // [queries, P]
  Tile d_queries_t;             // [A, queries]
  Tile scores, d_scores;        // [keys, queries]
  Tile keys, values;            // [T, P]
  Tile d_keys, d_values;        // [T, P]
  float *lse, *dots;            // [queries]

  static std::int64_t floats(std::int64_t width, std::int64_t longest) {
    return kQueryBlock * (3 * width + 2 * padded(width) + 2 * kKeyBlock + 2) + 4 * longest * padded(width);
  }
  Scratch(float* memory, std::int64_t width, std::int64_t longest) {
    const std::int64_t wide = padded(width);
    const auto take = [&memory](std::int64_t rows, std::int64_t stride) {
      const Tile tile{memory, stride};
      memory += rows * stride;
      return tile;
    };
    queries_t = take(width, kQueryBlock);
    d_outputs_t = take(width, kQueryBlock);
    d_queries_t = take(width, kQueryBlock);
    queries = take(kQueryBlock, wide);
    d_outputs = take(kQueryBlock, wide);
    scores = take(kKeyBlock, kQueryBlock);
    d_scores = take(kKeyBlock, kQueryBlock);
    lse = take(1, kQueryBlock).data;
    dots = take(1, kQueryBlock).data;
    keys = take(longest, wide);
    values = take(longest, wide);
    d_keys = take(longest, wide);
    d_values = take(longest, wide);
  }
};

template <class T>
float dot(const T* a, const T* b, std::int64_t count) {
  Vec total = set(0.0f);
  for_vectors(count, [&](std::int64_t i, auto part)
                         HWY_ATTR { total = hn::MulAdd(load(a + i, part), load(b + i, part), total); });
  return sum(total);
}

/// Scores and d_scores of one vector of queries: first Kᵀ Q and V d_Y, then P and dS. Lanes that do not see
/// key j (j counted from the block's first key; lane i sees keys below see + i) become zero.
HWY_INLINE void probabilities(Scratch& s, std::int64_t keys, std::int64_t see, std::int64_t v) {
  const Floats d;
  const Vec lane = hn::Add(hn::Iota(d, 0.0f), set(static_cast<float>(v * kLanes)));
  const Vec lse = load(s.lse + v * kLanes), dots = load(s.dots + v * kLanes);
  for (std::int64_t j = 0; j < keys; ++j) {
    float* const score = s.scores.data + j * kQueryBlock + v * kLanes;
    float* const d_score = s.d_scores.data + j * kQueryBlock + v * kLanes;
    const auto hidden = hn::Lt(lane, set(static_cast<float>(j - see + 1)));
    const Vec p = hn::IfThenZeroElse(hidden, exp(hn::Sub(load(score), lse)));
    store(p, score);
    store(hn::Mul(p, hn::Sub(load(d_score), dots)), d_score);
  }
}

/// The heads of one work item, as pointers to their first element.
template <class T>
struct Pointers {
  const T *d_y, *q, *y;
  const float* lse;
  T* d_q;
};
struct Strides {
  std::int64_t d_y, q, y, lse, d_q;
};

/// Queries [first, first + queries) of one head: d_q, and their share of d_keys and d_values.
template <class T>
void backward_block(const Pointers<T>& at, const Strides& stride, std::int64_t first, std::int64_t queries,
                    std::int64_t width, Scratch& s) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  const std::int64_t vectors = padded(queries) / kLanes, wide = padded(width) / kLanes;
  const T *const q = at.q + first * stride.q, *const d_y = at.d_y + first * stride.d_y;
  copy_tile_transposed(s.queries_t, q, stride.q, queries, width, scale);
  copy_tile_transposed(s.d_outputs_t, d_y, stride.d_y, queries, width, 1.0f);
  copy_tile(s.queries, q, stride.q, queries, width, scale);
  copy_tile(s.d_outputs, d_y, stride.d_y, queries, width, 1.0f);
  std::fill_n(s.d_queries_t.data, width * kQueryBlock, 0.0f);
  std::fill_n(s.lse, kQueryBlock, 0.0f);
  std::fill_n(s.dots, kQueryBlock, 0.0f);
  for (std::int64_t i = 0; i < queries; ++i) {
    s.lse[i] = at.lse[(first + i) * stride.lse];
    s.dots[i] = dot(d_y + i * stride.d_y, at.y + (first + i) * stride.y, width);
  }
  const std::int64_t all_keys = first + queries;
  for (std::int64_t key = 0; key < all_keys; key += kKeyBlock) {
    const std::int64_t keys = std::min(kKeyBlock, all_keys - key);
    const std::int64_t skip = std::max<std::int64_t>(0, key - first) / kLanes, lane = skip * kLanes;
    const Tile scores{s.scores.data + lane, kQueryBlock}, d_scores{s.d_scores.data + lane, kQueryBlock};
    const Left keys_left{s.keys.data + key * s.keys.stride, s.keys.stride, 1};
    const Left values_left{s.values.data + key * s.values.stride, s.values.stride, 1};
    tile_product<false>(scores, keys_left, {s.queries_t.data + lane, kQueryBlock}, keys, vectors - skip,
                        width);
    tile_product<false>(d_scores, values_left, {s.d_outputs_t.data + lane, kQueryBlock}, keys, vectors - skip,
                        width);
    for (std::int64_t v = skip; v < vectors; ++v) probabilities(s, keys, first + 1 - key, v);
    const std::int64_t depth = queries - lane;
    tile_product<true>({s.d_values.data + key * s.d_values.stride, s.d_values.stride},
                       {scores.data, kQueryBlock, 1},
                       {s.d_outputs.data + lane * s.d_outputs.stride, s.d_outputs.stride}, keys, wide, depth);
    tile_product<true>({s.d_keys.data + key * s.d_keys.stride, s.d_keys.stride},
                       {d_scores.data, kQueryBlock, 1},
                       {s.queries.data + lane * s.queries.stride, s.queries.stride}, keys, wide, depth);
    tile_product<true>({s.d_queries_t.data + lane, kQueryBlock}, {keys_left.data, 1, keys_left.row}, d_scores,
                       width, vectors - skip, keys);
  }
  transpose(at.d_q + first * stride.d_q, stride.d_q, s.d_queries_t.data, kQueryBlock, width, queries, scale);
}

template <class T>
void write_tile(T* to, std::int64_t stride, Tile tile, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for_vectors(cols, [&](std::int64_t i, auto part) HWY_ATTR {
      store(load(tile.data + r * tile.stride + i), to + r * stride + i, part);
    });
  }
}

void attention_backward(Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse, Heads heads,
                        std::span<const Segment> segments) {
  const std::int64_t width = heads.width, group = heads.query / heads.key_value;
  std::int64_t longest = 0;
  for (const Segment& segment : segments) longest = std::max(longest, segment.q_len);
  thread_local std::vector<float> scratch_store;
  const std::int64_t floats = (Scratch::floats(width, longest) + 15) / 16 * 16;
  const auto needed = static_cast<std::size_t>(floats * omp_get_max_threads());
  if (scratch_store.size() < needed) scratch_store.resize(needed);
  float* const scratch = scratch_store.data();
  const auto count = static_cast<std::int64_t>(segments.size()) * heads.key_value;
  with_type(q.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(dynamic, 1) if (q.size() > kParallelElements)
    for (std::int64_t w = 0; w < count; ++w) {
      const Segment& seg = segments[static_cast<std::size_t>(w / heads.key_value)];
      const std::int64_t kv_head = w % heads.key_value, kv = kv_head * width, length = seg.q_len;
      Scratch s(scratch + floats * omp_get_thread_num(), width, longest);
      copy_tile(s.keys, k.row<T>(seg.k_row) + kv, k.stride, length, width, 1.0f);
      copy_tile(s.values, v.row<T>(seg.k_row) + kv, v.stride, length, width, 1.0f);
      std::fill_n(s.d_keys.data, length * s.d_keys.stride, 0.0f);
      std::fill_n(s.d_values.data, length * s.d_values.stride, 0.0f);
      const Strides strides{d_y.stride, q.stride, y.stride, lse.stride, d_q.stride};
      for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        const Pointers<T> at{d_y.row<T>(seg.q_row) + h * width, q.row<T>(seg.q_row) + h * width,
                             y.row<T>(seg.q_row) + h * width, lse.row<float>(seg.q_row) + h,
                             d_q.row<T>(seg.q_row) + h * width};
        for (std::int64_t i = 0; i < length; i += kQueryBlock) {
          backward_block<T>(at, strides, i, std::min(kQueryBlock, length - i), width, s);
        }
      }
      write_tile(d_k.row<T>(seg.k_row) + kv, d_k.stride, s.d_keys, length, width);
      write_tile(d_v.row<T>(seg.k_row) + kv, d_v.stride, s.d_values, length, width);
    }
  });
}

}  // namespace

AttentionBackward attention_backward_kernel() {
  return attention_backward;
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(attention_backward_kernel);
AttentionBackward attention_backward_kernel() {
  return HWY_DYNAMIC_DISPATCH(attention_backward_kernel)();
}
}  // namespace stem::cpu
#endif
