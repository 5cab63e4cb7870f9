// Attention forward: blocks of queries against blocks of keys with a running softmax (FlashAttention).
//
// Everything is held transposed, one query a lane: scores Sᵀ = K Qᵀ [keys, queries], output Oᵀ = Vᵀ P [A,
// queries]. Maximum, exponential and sum over keys are then plain vector operations down the rows, and a lane
// never meets another one. Keys are taken in blocks of kKeyBlock from the segment's first key and each
// element of a product is one chain (tiles-inl.h), so a query's result depends on its own keys only: training
// and inference share this kernel.
#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/cpu/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kQueryBlock = 64;
constexpr std::int64_t kKeyBlock = 32;

/// Scratch of one thread, for head width A.
struct Scratch {
  Tile queries;    // [A, queries], scaled by 1/√A
  Tile scores;     // [keys, queries]
  Tile output;     // [A, queries]
  Tile keys;       // [keys, A] when the keys are not f32
  Tile values;     // [keys, A]
  float* top;      // [queries] running maximum
  float* total;    // [queries] running sum of exponentials
  float* rescale;  // [queries]

  static std::int64_t floats(std::int64_t width) {
    return kQueryBlock * (2 * width + kKeyBlock + 3) + 2 * kKeyBlock * padded(width);
  }
  Scratch(float* memory, std::int64_t width) {
    const auto take = [&memory](std::int64_t count) {
      float* const start = memory;
      memory += count;
      return start;
    };
    queries = {take(width * kQueryBlock), kQueryBlock};
    scores = {take(kKeyBlock * kQueryBlock), kQueryBlock};
    output = {take(width * kQueryBlock), kQueryBlock};
    top = take(kQueryBlock);
    total = take(kQueryBlock);
    rescale = take(kQueryBlock);
    keys = {take(kKeyBlock * padded(width)), padded(width)};
    values = {take(kKeyBlock * padded(width)), padded(width)};
  }
};

/// A block as f32 to read values from: itself, or converted into `tile`.
inline Left as_floats(const float* block, std::int64_t stride, std::int64_t, std::int64_t, Tile) {
  return {block, stride, 1};
}
inline Left as_floats(const bf16* block, std::int64_t stride, std::int64_t rows, std::int64_t width,
                      Tile tile) {
  copy_tile(tile, block, stride, rows, width, 1.0f);
  return {tile.data, tile.stride, 1};
}

/// Rows of WeightFormat::int8.
inline Left as_floats(const std::int8_t* block, std::int64_t stride, std::int64_t rows, std::int64_t width,
                      Tile tile) {
  const hn::Rebind<std::int8_t, Floats> bytes;
  const hn::RebindToSigned<Floats> integers;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int8_t* from = block + r * stride;
    for (std::int64_t a = 0; a < width; a += kWeightGroup) {
      std::uint16_t half;
      std::memcpy(&half, from, sizeof(half));
      from += sizeof(half);
      const Vec scale = set(from_half(half));
      for (std::int64_t i = 0; i < kWeightGroup; i += kLanes, from += kLanes) {
        const auto q = hn::PromoteTo(integers, hn::LoadU(bytes, from));
        store(hn::Mul(hn::ConvertTo(Floats(), q), scale), tile.data + r * tile.stride + a + i);
      }
    }
  }
  return {tile.data, tile.stride, 1};
}

/// Hides key j from the queries in lanes before j − visible, for lanes from `lane` on.
HWY_INLINE void mask_future(Scratch& s, std::int64_t keys, std::int64_t first_hidden, std::int64_t v) {
  const Floats d;
  const Vec lane = hn::Add(hn::Iota(d, 0.0f), set(static_cast<float>(v * kLanes)));
  const Vec hidden = set(-std::numeric_limits<float>::infinity());
  for (std::int64_t j = 0; j < keys; ++j) {
    // Lane i sees keys j < first_hidden + i, where first_hidden counts from this block's first key.
    const float first_lane = static_cast<float>(j - first_hidden + 1);
    float* const at = s.scores.data + j * kQueryBlock + v * kLanes;
    store(hn::IfThenElse(hn::Lt(lane, set(first_lane)), hidden, load(at)), at);
  }
}

/// Turns one vector of queries' scores into exponentials and updates their running maximum and sum.
HWY_INLINE void softmax_lanes(Scratch& s, std::int64_t keys, std::int64_t v) {
  float* const column = s.scores.data + v * kLanes;
  const Vec old_top = load(s.top + v * kLanes);
  Vec top = old_top;
  for (std::int64_t j = 0; j < keys; ++j) top = hn::Max(top, load(column + j * kQueryBlock));
  const Vec rescale = exp(hn::Sub(old_top, top));
  Vec total = hn::Mul(load(s.total + v * kLanes), rescale);
  for (std::int64_t j = 0; j < keys; ++j) {
    const Vec e = exp(hn::Sub(load(column + j * kQueryBlock), top));
    store(e, column + j * kQueryBlock);
    total = hn::Add(total, e);
  }
  store(top, s.top + v * kLanes);
  store(total, s.total + v * kLanes);
  store(rescale, s.rescale + v * kLanes);
}

HWY_INLINE void rescale_output(Scratch& s, std::int64_t width, std::int64_t v) {
  const Vec factor = load(s.rescale + v * kLanes);
  if (hn::AllTrue(Floats(), hn::Eq(factor, set(1.0f)))) return;
  for (std::int64_t a = 0; a < width; ++a) {
    float* const at = s.output.data + a * kQueryBlock + v * kLanes;
    store(hn::Mul(load(at), factor), at);
  }
}

/// Queries of one block and the keys of their head; `see` keys are visible to the first of them, and `later`
/// more (1 or 0) to each one after it.
template <class T, class S>
void attend(T* y, std::int64_t stride_y, float* lse, std::int64_t stride_lse, const T* q,
            std::int64_t stride_q, const S* k, const S* v, std::int64_t stride_k, std::int64_t stride_v,
            std::int64_t queries, std::int64_t see, std::int64_t later, std::int64_t width, Scratch s) {
  const std::int64_t vectors = padded(queries) / kLanes;
  copy_tile_transposed(s.queries, q, stride_q, queries, width, 1.0f / std::sqrt(static_cast<float>(width)));
  std::fill_n(s.output.data, width * kQueryBlock, 0.0f);
  std::fill_n(s.top, kQueryBlock, -std::numeric_limits<float>::infinity());
  std::fill_n(s.total, kQueryBlock, 0.0f);
  const std::int64_t all_keys = see + (queries - 1) * later;
  for (std::int64_t first = 0; first < all_keys; first += kKeyBlock) {
    const std::int64_t keys = std::min(kKeyBlock, all_keys - first);
    // Vectors whose every lane sees no key of this block are left out: lane i sees see + i · later keys.
    const std::int64_t skip = std::max<std::int64_t>(0, first + 1 - see) / kLanes;
    // Rows of one head lie apart: no prefetcher sees the next ones coming.
    for (std::int64_t j = first + kKeyBlock; j < std::min(all_keys, first + 2 * kKeyBlock); ++j) {
      for (std::int64_t a = 0; a < width; a += 64 / static_cast<std::int64_t>(sizeof(S))) {
        hwy::Prefetch(k + j * stride_k + a);
        hwy::Prefetch(v + j * stride_v + a);
      }
    }
    const Left key_block = as_floats(k + first * stride_k, stride_k, keys, width, s.keys);
    const Left value_block = as_floats(v + first * stride_v, stride_v, keys, width, s.values);
    const Tile scores{s.scores.data + skip * kLanes, kQueryBlock};
    const Tile output{s.output.data + skip * kLanes, kQueryBlock};
    tile_product<false>(scores, key_block, {s.queries.data + skip * kLanes, kQueryBlock}, keys,
                        vectors - skip, width);
    for (std::int64_t i = skip; i < vectors; ++i) {
      if (later != 0 && first + keys > see + i * kLanes) mask_future(s, keys, see - first, i);
      softmax_lanes(s, keys, i);
      rescale_output(s, width, i);
    }
    tile_product<true>(output, {value_block.data, 1, value_block.row}, scores, width, vectors - skip, keys);
  }
  for (std::int64_t i = 0; i < queries; ++i) {
    if (lse != nullptr) lse[i * stride_lse] = s.top[i] + std::log(s.total[i]);
  }
  for (std::int64_t i = 0; i < vectors; ++i) {
    const Vec inverse = hn::Div(set(1.0f), load(s.total + i * kLanes));
    for (std::int64_t a = 0; a < width; ++a) {
      float* const at = s.output.data + a * kQueryBlock + i * kLanes;
      store(hn::Mul(load(at), inverse), at);
    }
  }
  transpose(y, stride_y, s.output.data, kQueryBlock, width, queries, 1.0f);
}

/// Queries of one head; of a segment of one query those of all heads that share their keys, a head a lane.
struct Work {
  const Segment* segment;
  std::int64_t head, first_query, heads;
};

void attention_forward(Out y, Out lse, In q, In k, In v, Heads heads, std::span<const Segment> segments) {
  thread_local std::vector<Work> work_store;
  thread_local std::vector<float> scratch_store;
  work_store.clear();
  std::int64_t pairs = 0;
  for (const Segment& segment : segments) {
    pairs += segment.q_len * segment.k_len * heads.query * heads.width;
    const std::int64_t together =
        segment.q_len == 1 ? std::min(heads.query / heads.key_value, kQueryBlock) : 1;
    for (std::int64_t h = 0; h < heads.query;) {
      // As many as are left of those that share keys.
      const std::int64_t left = heads.query / heads.key_value - h % (heads.query / heads.key_value);
      const std::int64_t taken = std::min(together, left);
      for (std::int64_t i = 0; i < segment.q_len; i += kQueryBlock)
        work_store.push_back({&segment, h, i, taken});
      h += taken;
    }
  }
  const std::int64_t floats = (Scratch::floats(heads.width) + 15) / 16 * 16;
  scratch_store.resize(static_cast<std::size_t>(floats * omp_get_max_threads()));
  float* const scratch = scratch_store.data();
  const Work* const works = work_store.data();
  const auto count = static_cast<std::int64_t>(work_store.size());
  const std::int64_t group = heads.query / heads.key_value, width = heads.width,
                     stored = heads.stored_width(k.dtype);
  const auto all = [&]<class T, class S>(const T*, const S*) {
#pragma omp parallel for schedule(dynamic, 1) if (pairs > 4 * kParallelElements)
    for (std::int64_t w = 0; w < count; ++w) {
      const Work& work = works[w];
      const Segment& seg = *work.segment;
      const std::int64_t row = seg.q_row + work.first_query, kv = work.head / group * stored;
      const bool one = work.heads > 1;  // query, of several heads
      const std::int64_t queries = one ? work.heads : std::min(kQueryBlock, seg.q_len - work.first_query);
      attend<T, S>(y.row<T>(row) + work.head * width, one ? width : y.stride,
                   lse ? lse.row<float>(row) + work.head : nullptr, one ? 1 : lse.stride,
                   q.row<T>(row) + work.head * width, one ? width : q.stride, k.row<S>(seg.k_row) + kv,
                   v.row<S>(seg.k_row) + kv, k.stride, v.stride, queries,
                   seg.k_len - seg.q_len + work.first_query + 1, one ? 0 : 1, width,
                   Scratch(scratch + floats * omp_get_thread_num(), width));
    }
  };
  with_type(q.dtype, [&](auto* type) {
    if (k.dtype == DType::i8) return all(type, static_cast<const std::int8_t*>(nullptr));
    with_type(k.dtype, [&](auto* keys) { all(type, keys); });
  });
}

void attention_invariant(Out y, In q, In k, In v, Heads heads, std::span<const Segment> segments) {
  attention_forward(y, {}, q, k, v, heads, segments);
}

}  // namespace

AttentionKernels attention_kernels() {
  return {attention_forward, attention_backward_kernel(), attention_invariant};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/attention_amx.h"
#include "kernels/cpu/gemm_amx.h"

namespace stem::cpu {
namespace {

// What bf16 takes where there are no tiles, and f32 everywhere.
const AttentionKernels& vector_kernels();

void attention_forward(Out y, Out lse, In q, In k, In v, Heads heads, std::span<const Segment> segments) {
  if (q.dtype == DType::bf16 && amx_supported())
    return amx_attention_forward(y, lse, q, k, v, heads, segments);
  vector_kernels().attention_forward(y, lse, q, k, v, heads, segments);
}

void attention_backward(Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse, Heads heads,
                        std::span<const Segment> segments) {
  if (q.dtype == DType::bf16 && amx_supported())
    return amx_attention_backward(d_q, d_k, d_v, d_y, q, k, v, y, lse, heads, segments);
  vector_kernels().attention_backward(d_q, d_k, d_v, d_y, q, k, v, y, lse, heads, segments);
}

void attention_invariant(Out y, In q, In k, In v, Heads heads, std::span<const Segment> segments) {
  if (k.dtype != DType::f32 && amx_supported()) return amx_attention_forward(y, {}, q, k, v, heads, segments);
  vector_kernels().attention_invariant(y, q, k, v, heads, segments);
}

}  // namespace

HWY_EXPORT(attention_kernels);

namespace {
const AttentionKernels& vector_kernels() {
  static const AttentionKernels kernels = HWY_DYNAMIC_DISPATCH(attention_kernels)();
  return kernels;
}
}  // namespace

AttentionKernels attention_kernels() {
  return {attention_forward, attention_backward, attention_invariant};
}

}  // namespace stem::cpu
#endif
