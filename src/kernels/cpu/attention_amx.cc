// Attention on AMX tiles (FlashAttention: blocks of queries against blocks of keys, never [T, T]).
//
// Forward, 32 rows of queries at a time:  S = Q Kᵀ/√A    P = exp(S − max)    Y = P V / Σ P
// Backward, transposed, so that a query is a lane and what belongs to it (lse, D = d_y·y) a vector:
//   Pᵀ = exp(K Qᵀ/√A − lse)    dSᵀ = Pᵀ ⊙ (V d_Yᵀ − D)/√A
//   d_V += Pᵀ d_Y    d_K += dSᵀ Q    d_Qᵀ += Kᵀ dSᵀ
// P and dS are rounded to bf16 for the products; everything else is f32.
#include "kernels/cpu/attention_amx.h"

#include <omp.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/families.h"

namespace stem::cpu {

#if STEM_HAS_AMX

STEM_AMX_BEGIN

namespace {

using namespace amx;

constexpr std::int64_t kQueriesPerItem = 256;  // of a work item of the forward; its keys are packed once
constexpr std::int64_t kKeys = 256;            // of a chunk of the forward's softmax, a multiple of kBlock
constexpr std::int64_t kSide = 128;  // queries and keys of a block of the backward, a multiple of kBlock
constexpr std::int64_t kSteps = kSide / kBlock;
constexpr float kHidden = -std::numeric_limits<float>::infinity();

/// e^x for x ≤ 0 to about one unit in the last place; e^−∞ = 0.
inline __m512 exp(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);  // to nearest
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);  // ln 2 in two parts
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 p = _mm512_set1_ps(1.0f / 720);
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  // Below −87 the result is no normal number; there n and r need not make sense.
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GT_OQ);
  return _mm512_maskz_scalef_ps(normal, p, n);
}

/// Two vectors as one of bf16, `low` first.
inline __m512i narrow(__m512 low, __m512 high) {
  const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
  return reinterpret_cast<const __m512i&>(both);
}

/// Rows of k-contiguous values as panels: in place where they are whole, else packed into `memory`.
class Panels {
 public:
  /// m [rows, width]; `memory` holds blocks(rows) · blocks(width) · 2 tiles.
  Panels(const In& m, bf16* memory) : m_(m), memory_(memory) {
    const std::int64_t steps = blocks(m.cols);
    direct_ = m.cols % kBlock == 0 ? m.rows / kBlock : 0;
    for (std::int64_t i = direct_; i < blocks(m.rows); ++i) {
      for (std::int64_t s = 0; s < steps; ++s)
        pack_rows(memory + (i * steps + s) * 2 * kTile, m, false, i * kBlock, s * kBlock);
    }
  }
  Panel operator[](std::int64_t i) const {
    if (i >= direct_) return packed_panel(memory_ + i * blocks(m_.cols) * 2 * kTile);
    const std::int64_t bytes = m_.stride * 2;
    return {static_cast<const char*>(m_.data) + i * kBlock * bytes, bytes, 16 * bytes, 64};
  }
  static Panel packed_panel(const bf16* at) {
    return {reinterpret_cast<const char*>(at), 64, kTile * 2, 2 * kTile * 2};
  }

 private:
  In m_;
  bf16* memory_;
  std::int64_t direct_ = 0;
};

/// op(b) [K, N] packed: block n of 32 columns, step k at `to` + (n · blocks(K) + k) tiles of two.
void pack_all(bf16* to, const In& b, bool transposed) {
  const std::int64_t steps = blocks(transposed ? b.cols : b.rows),
                     columns = blocks(transposed ? b.rows : b.cols);
  for (std::int64_t n = 0; n < columns; ++n) {
    for (std::int64_t s = 0; s < steps; ++s)
      pack_columns(to + (n * steps + s) * 2 * kTile, b, transposed, s * kBlock, n * kBlock);
  }
}

/// Columns [head · A, …) of rows [row, row + count).
In head_of(const In& m, std::int64_t row, std::int64_t count, std::int64_t head, std::int64_t width) {
  return m.slice_rows(row, count).slice_cols(head * width, width);
}

/// Hands out parts of one block of memory, each on a cache line.
class Parts {
 public:
  explicit Parts(char* memory) : next_(memory) {}
  template <class T>
  T* take(std::int64_t count) {
    T* const start = reinterpret_cast<T*>(next_);
    next_ += (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    return start;
  }

 private:
  char* next_;
};

// ---- forward ----
//
// A block has 32 rows. Row r of a piece of work is one of the query heads that share a key head, at one
// query: query r / group, head r % group of them. So one query alone, while decoding, still brings `group`
// rows.

struct ForwardWork {
  const Segment* segment;
  std::int64_t kv_head, first_query, queries;

  std::int64_t keys() const { return segment->k_len - segment->q_len + first_query + queries; }
};

/// Keys and values as the products read them, of one key head: from `first` on, to `steps` steps of 32.
struct PackedKeys {
  const bf16 *keys, *values;
  std::int64_t first, steps;
};

/// Keys or values of one head in bf16: themselves, or out of int8 (Heads::stored_width) into `opened`.
In rows_of(const In& m, std::int64_t width, bf16* opened) {
  if (m.dtype == DType::bf16) return m;
  for (std::int64_t r = 0; r < m.rows; ++r) {
    const std::int8_t* from = m.row<std::int8_t>(r);
    for (std::int64_t a = 0; a < width; a += kWeightGroup) {
      std::uint16_t half;
      std::memcpy(&half, from, sizeof(half));
      from += sizeof(half);
      const __m512 scale = _mm512_set1_ps(from_half(half));
      const auto values = [&](const std::int8_t* at) {
        const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), scale);
      };
      _mm512_store_si512(opened + r * width + a, narrow(values(from), values(from + 16)));
      from += kWeightGroup;
    }
  }
  return {opened, DType::bf16, m.rows, width, width};
}

struct ForwardScratch {
  bf16 *keys, *values;  // packed, for Q Kᵀ and for P V
  bf16 *queries, *probabilities;
  bf16 *key_rows, *value_rows;  // [32, padded A], of keys and values in int8
  float *scores, *output;       // [32, kKeys], [32, padded A]
  float top[kBlock], total[kBlock];

  /// `keys`: of the longest piece of work whose keys are packed as a whole, at least kKeys.
  static std::int64_t bytes(std::int64_t keys, std::int64_t width) {
    const std::int64_t values = blocks(keys) * blocks(width) * 2 * kTile;
    return 2 * (2 * values + blocks(width) * 2 * kTile + kBlock * kKeys +
                2 * kBlock * blocks(width) * kBlock) +
           4 * kBlock * (kKeys + blocks(width) * kBlock) + 8 * 64;
  }
  ForwardScratch(char* memory, std::int64_t most_keys, std::int64_t width) {
    Parts parts(memory);
    keys = parts.take<bf16>(blocks(most_keys) * blocks(width) * 2 * kTile);
    values = parts.take<bf16>(blocks(most_keys) * blocks(width) * 2 * kTile);
    queries = parts.take<bf16>(blocks(width) * 2 * kTile);
    probabilities = parts.take<bf16>(kBlock * kKeys);
    key_rows = parts.take<bf16>(kBlock * blocks(width) * kBlock);
    value_rows = parts.take<bf16>(kBlock * blocks(width) * kBlock);
    scores = parts.take<float>(kBlock * kKeys);
    output = parts.take<float>(kBlock * blocks(width) * kBlock);
  }
  PackedKeys pack(const In& k, const In& v, const ForwardWork& work, std::int64_t first, std::int64_t count,
                  std::int64_t width) const {
    const std::int64_t row = work.segment->k_row + first, steps = blocks(count), wide = blocks(width);
    const std::int64_t stored = Heads{1, 1, width}.stored_width(k.dtype), unit = 64 / size_of(k.dtype);
    const In key = head_of(k, row, count, work.kv_head, stored),
             value = head_of(v, row, count, work.kv_head, stored);
    for (std::int64_t s = 0; s < steps; ++s) {
      // Rows of one head lie apart: the hardware does not see the next ones coming.
      for (std::int64_t i = (s + 1) * kBlock; i < std::min(count, (s + 2) * kBlock); ++i) {
        for (std::int64_t a = 0; a < stored; a += unit) {
          for (const In* m : {&key, &value})
            _mm_prefetch(m->slice_rows(i, 1).slice_cols(a, 1).data, _MM_HINT_T0);
        }
      }
      const std::int64_t at = s * kBlock, rows = std::min(kBlock, count - at);
      const In key_block = rows_of(key.slice_rows(at, rows), width, key_rows),
               value_block = rows_of(value.slice_rows(at, rows), width, value_rows);
      for (std::int64_t a = 0; a < wide; ++a) {
        pack_columns(keys + (s * wide + a) * 2 * kTile, key_block, true, a * kBlock, 0);
        pack_columns(values + (a * steps + s) * 2 * kTile, value_block, false, 0, a * kBlock);
      }
    }
    return {keys, values, first, steps};
  }
};

/// A row of queries in the tiles of Q, rounded to bf16; `row` of 32.
void pack_query(bf16* tiles, std::int64_t row, const In& q, std::int64_t at, std::int64_t col,
                std::int64_t width) {
  bf16* to = tiles + row / 16 * kTile + row % 16 * 32;
  for (std::int64_t a = 0; a < width; a += 32, to += 2 * kTile) {
    __m512i values;
    if (q.dtype == DType::bf16) {
      values = _mm512_maskz_loadu_epi16(first32(width - a), q.row<bf16>(at) + col + a);
    } else {
      const float* const from = q.row<float>(at) + col + a;
      values = narrow(_mm512_maskz_loadu_ps(first16(width - a), from),
                      _mm512_maskz_loadu_ps(first16(width - a - 16), from + 16));
    }
    _mm512_store_si512(to, values);
  }
}

/// One row of scores to probabilities in the tiles of P: `seen` of the chunk's keys count. Returns what the
/// row's output so far is to be multiplied with.
inline float softmax_row(ForwardScratch& s, std::int64_t row, std::int64_t seen, std::int64_t columns,
                         float scale) {
  const float* const scores = s.scores + row * kKeys;
  bf16* const to = s.probabilities + row / 16 * kTile + row % 16 * 32;
  const __m512 factor = _mm512_set1_ps(scale);
  __m512 top = _mm512_set1_ps(s.top[row]);
  for (std::int64_t j = 0; j < seen; j += 16) {
    const __m512 score = _mm512_mul_ps(_mm512_load_ps(scores + j), factor);
    top = _mm512_mask_max_ps(top, first16(seen - j), top, score);
  }
  const float new_top = _mm512_reduce_max_ps(top);
  top = _mm512_set1_ps(new_top);
  __m512 total = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < columns; j += 32) {
    __m512 part[2];
    for (int h = 0; h < 2; ++h) {
      const __mmask16 mask = first16(seen - j - 16 * h);
      part[h] = _mm512_setzero_ps();
      if (mask == 0) continue;
      part[h] =
          _mm512_maskz_mov_ps(mask, exp(_mm512_fmsub_ps(_mm512_load_ps(scores + j + 16 * h), factor, top)));
      total = _mm512_add_ps(total, part[h]);
    }
    _mm512_store_si512(to + j / 32 * 2 * kTile, narrow(part[0], part[1]));
  }
  const float rescale = s.top[row] == kHidden ? 0.0f : std::exp(s.top[row] - new_top);
  s.total[row] = s.total[row] * rescale + _mm512_reduce_add_ps(total);
  s.top[row] = new_top;
  return rescale;
}

/// What the rows of one block have in common.
struct Attend {
  Out y, lse;
  const In &q, &k, &v;
  const ForwardWork& work;
  std::int64_t group, width;

  /// Rows [first, first + rows) of the work. Keys are packed chunk by chunk where `whole` does not hold them.
  void block(std::int64_t first, std::int64_t rows, const PackedKeys* whole, ForwardScratch& s) const {
    const Segment& seg = *work.segment;
    const auto query = [&](std::int64_t i) { return work.first_query + (first + i) / group; };
    const auto head = [&](std::int64_t i) { return work.kv_head * group + (first + i) % group; };
    const std::int64_t before = seg.k_len - seg.q_len, keys = before + query(rows - 1) + 1;
    const std::int64_t wide = blocks(width) * kBlock;
    if (rows < kBlock)
      std::memset(static_cast<void*>(s.queries), 0, static_cast<std::size_t>(kBlock * wide * 2));
    for (std::int64_t i = 0; i < rows; ++i)
      pack_query(s.queries, i, q, seg.q_row + query(i), head(i) * width, width);
    std::fill_n(s.top, kBlock, kHidden);
    std::fill_n(s.total, kBlock, 0.0f);
    const float scale = 1.0f / std::sqrt(static_cast<float>(width));
    for (std::int64_t chunk = 0; chunk < keys; chunk += kKeys) {
      const std::int64_t columns = blocks(std::min(kKeys, keys - chunk)) * kBlock;
      const PackedKeys packed =
          whole != nullptr ? *whole : s.pack(k, v, work, chunk, std::min(kKeys, keys - chunk), width);
      const std::int64_t at = chunk - packed.first;
      for (std::int64_t j = 0; j < columns; j += kBlock)
        multiply(s.scores + j, kKeys, {}, Panels::packed_panel(s.queries), packed.keys + (at + j) * wide,
                 wide);
      for (std::int64_t i = 0; i < kBlock; ++i) {
        // Rows beyond the last see nothing; they only fill the tiles.
        const std::int64_t seen =
            i < rows ? std::clamp<std::int64_t>(before + query(i) + 1 - chunk, 0, columns) : 0;
        if (seen == 0) {
          for (std::int64_t j = 0; j < columns; j += 32)
            _mm512_store_si512(s.probabilities + i / 16 * kTile + i % 16 * 32 + j / 32 * 2 * kTile,
                               _mm512_setzero_si512());
          continue;
        }
        const __m512 rescale = _mm512_set1_ps(softmax_row(s, i, seen, columns, scale));
        if (chunk == 0) continue;
        for (std::int64_t a = 0; a < wide; a += 16) {
          float* const to = s.output + i * wide + a;
          _mm512_store_ps(to, _mm512_mul_ps(_mm512_load_ps(to), rescale));
        }
      }
      for (std::int64_t a = 0; a < wide; a += kBlock)
        multiply(s.output + a, wide, chunk > 0 ? Start{s.output + a, wide} : Start{},
                 Panels::packed_panel(s.probabilities), packed.values + (a * packed.steps + at) * kBlock,
                 columns);
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      const __m512 inverse = _mm512_set1_ps(1.0f / s.total[i]);
      for (std::int64_t a = 0; a < wide; a += 16) {
        float* const to = s.output + i * wide + a;
        _mm512_store_ps(to, _mm512_mul_ps(_mm512_load_ps(to), inverse));
      }
      const std::int64_t row = seg.q_row + query(i);
      if (lse) lse.row<float>(row)[head(i)] = s.top[i] + std::log(s.total[i]);
      write(y, row, head(i) * width, s.output + i * wide, wide, 1, width, {});
    }
  }
};

// ---- backward ----

struct BackwardScratch {
  bf16 *keys, *values;                     // rows that cannot be read in place
  bf16* keys_t;                            // Kᵀ as rows: [A, T]
  bf16 *queries, *d_outputs;               // packed columns: Qᵀ, d_Yᵀ [A, T]
  bf16 *queries_rows, *d_outputs_rows;     // packed columns: Q, d_Y [T, A]
  bf16 *p, *d_s, *d_s_pairs;               // a block: Pᵀ and dSᵀ as rows, dSᵀ as columns
  float *d_keys, *d_values, *d_queries_t;  // [T, A], [T, A], [A, kSide]
  float *lse, *dots;                       // [T]

  static std::int64_t bytes(std::int64_t longest, std::int64_t width) {
    const std::int64_t padded = blocks(longest) * kBlock, wide = blocks(width) * kBlock;
    return 2 * (7 * padded * wide + 3 * kSide * kSide) + 4 * (2 * padded * wide + wide * kSide + 2 * padded) +
           16 * 64;
  }
  BackwardScratch(char* memory, std::int64_t longest, std::int64_t width) {
    const std::int64_t padded = blocks(longest) * kBlock, wide = blocks(width) * kBlock;
    Parts parts(memory);
    for (bf16** part : {&keys, &values, &keys_t, &queries, &d_outputs, &queries_rows, &d_outputs_rows})
      *part = parts.take<bf16>(padded * wide);
    for (bf16** part : {&p, &d_s, &d_s_pairs}) *part = parts.take<bf16>(kSide * kSide);
    d_keys = parts.take<float>(padded * wide);
    d_values = parts.take<float>(padded * wide);
    d_queries_t = parts.take<float>(wide * kSide);
    lse = parts.take<float>(padded);
    dots = parts.take<float>(padded);
  }
};

/// Scores and V d_Yᵀ of 32 keys × 32 queries to Pᵀ and dSᵀ in their tiles; `diagonal`: key r sees queries
/// from r on.
inline void probabilities(const float* scores, const float* d_p, const float* lse, const float* dots,
                          float scale, bool diagonal, bf16* p, bf16* d_s, bf16* d_s_pairs) {
  const __m512 factor = _mm512_set1_ps(scale);
  __m512 lses[2], dot[2];
  for (int h = 0; h < 2; ++h) lses[h] = _mm512_load_ps(lse + 16 * h), dot[h] = _mm512_load_ps(dots + 16 * h);
  for (int r = 0; r < kBlock; r += 2) {
    __m512 change[2][2];
    for (int e = 0; e < 2; ++e) {
      __m512 probability[2];
      const int key = r + e;
      for (int h = 0; h < 2; ++h) {
        const float* const at = scores + key * kBlock + 16 * h;
        __m512 value =
            exp(_mm512_min_ps(_mm512_fmsub_ps(_mm512_load_ps(at), factor, lses[h]), _mm512_setzero_ps()));
        if (diagonal) value = _mm512_maskz_mov_ps(static_cast<__mmask16>(~first16(key - 16 * h)), value);
        probability[h] = value;
        const __m512 slope = _mm512_sub_ps(_mm512_load_ps(d_p + key * kBlock + 16 * h), dot[h]);
        change[e][h] = _mm512_mul_ps(_mm512_mul_ps(value, factor), slope);
      }
      const std::int64_t row = key / 16 * kTile + key % 16 * 32;
      _mm512_store_si512(p + row, narrow(probability[0], probability[1]));
      _mm512_store_si512(d_s + row, narrow(change[e][0], change[e][1]));
    }
    for (int h = 0; h < 2; ++h) {
      const __m512i both = narrow(change[0][h], change[1][h]);  // 16 values of key r, then 16 of key r + 1
      const __m512i even = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both)),
                    odd = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
      _mm512_store_si512(d_s_pairs + h * kTile + r * 16, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
  }
}

/// d_q [rows, A] = d_queries_tᵀ.
void write_transposed(Out d_q, const float* from, std::int64_t rows) {
  for (std::int64_t i = 0; i < rows; i += 16) {
    for (std::int64_t a = 0; a < d_q.cols; a += 16) {
      __m512i r[16];
      for (int l = 0; l < 16; ++l) r[l] = _mm512_load_si512(from + (a + l) * kSide + i);
      transpose(r);
      for (int l = 0; l < std::min<std::int64_t>(16, rows - i); ++l) {
        const __m256bh value = _mm512_cvtneps_pbh(_mm512_castsi512_ps(r[l]));
        _mm256_mask_storeu_epi16(d_q.row<bf16>(i + l) + a, first16(d_q.cols - a),
                                 reinterpret_cast<const __m256i&>(value));
      }
    }
  }
}

/// The tensors of one head within one segment, each [T, A].
struct Head {
  In q, y, d_y;
  Out d_q;
};

/// One query head: d_q, and its share of d_keys and d_values.
void backward_head(const Head& head, const Panels& keys, const Panels& values, BackwardScratch& s) {
  const std::int64_t length = head.q.rows, width = head.q.cols, steps = blocks(length),
                     wide = blocks(width) * kBlock;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  pack_all(s.queries, head.q, true);
  pack_all(s.d_outputs, head.d_y, true);
  pack_all(s.queries_rows, head.q, false);
  pack_all(s.d_outputs_rows, head.d_y, false);
  for (std::int64_t i = 0; i < length; ++i) {
    __m512 sum = _mm512_setzero_ps();
    for (std::int64_t a = 0; a < width; a += 32) {
      const __mmask32 mask = first32(width - a);
      const __m512i left = _mm512_maskz_loadu_epi16(mask, head.d_y.row<bf16>(i) + a),
                    right = _mm512_maskz_loadu_epi16(mask, head.y.row<bf16>(i) + a);
      sum = _mm512_dpbf16_ps(sum, reinterpret_cast<const __m512bh&>(left),
                             reinterpret_cast<const __m512bh&>(right));
    }
    s.dots[i] = _mm512_reduce_add_ps(sum);
  }
  alignas(64) float scores[kBlock * kBlock], d_p[kBlock * kBlock];
  for (std::int64_t i = 0; i < steps; i += kSteps) {
    const std::int64_t queries =
        std::min(kSteps, steps - i);  // in blocks of 32, as everything in these loops
    for (std::int64_t j = 0; j <= i; j += kSteps) {
      const std::int64_t visible = std::min(kSteps, steps - j);
      const auto first_query = [&](std::int64_t key) { return j == i ? key : 0; };
      for (std::int64_t key = 0; key < visible; ++key) {
        const Panel key_rows = keys[j + key], value_rows = values[j + key];
        for (std::int64_t query = first_query(key); query < queries; ++query) {
          const std::int64_t at = (i + query) * kBlock, tile = (key * kSteps + query) * 2 * kTile;
          multiply(scores, kBlock, {}, key_rows, s.queries + at * wide, wide);
          multiply(d_p, kBlock, {}, value_rows, s.d_outputs + at * wide, wide);
          probabilities(scores, d_p, s.lse + at, s.dots + at, scale, j + key == i + query, s.p + tile,
                        s.d_s + tile, s.d_s_pairs + (query * kSteps + key) * 2 * kTile);
        }
      }
      for (std::int64_t key = 0; key < visible; ++key) {
        const std::int64_t from = first_query(key), depth = (queries - from) * kBlock;
        if (depth <= 0) continue;
        const std::int64_t tile = (key * kSteps + from) * 2 * kTile;
        for (std::int64_t a = 0; a < wide; a += kBlock) {
          const std::int64_t to = (j + key) * kBlock * wide + a,
                             column = (a / kBlock * steps + i + from) * 2 * kTile;
          multiply(s.d_values + to, wide, {s.d_values + to, wide}, Panels::packed_panel(s.p + tile),
                   s.d_outputs_rows + column, depth);
          multiply(s.d_keys + to, wide, {s.d_keys + to, wide}, Panels::packed_panel(s.d_s + tile),
                   s.queries_rows + column, depth);
        }
      }
      for (std::int64_t query = 0; query < queries; ++query) {
        const std::int64_t depth = (j == i ? query + 1 : visible) * kBlock;
        for (std::int64_t a = 0; a < wide; a += kBlock) {
          float* const to = s.d_queries_t + a * kSide + query * kBlock;
          multiply(to, kSide, j > 0 ? Start{to, kSide} : Start{},
                   Panels::packed_panel(s.keys_t + (a / kBlock * steps + j) * 2 * kTile),
                   s.d_s_pairs + query * kSteps * 2 * kTile, depth);
        }
      }
    }
    const std::int64_t first = i * kBlock, rows = std::min(kSide, length - first);
    write_transposed(head.d_q.slice_rows(first, rows), s.d_queries_t, rows);
  }
}

/// Memory for every thread of the parallel region that follows, from the calling thread's own.
char* scratch_of(Buffer& buffer, std::int64_t bytes_per_thread) {
  return thread_memory<char>(buffer, bytes_per_thread * omp_get_max_threads());
}

std::int64_t longest_keys(std::span<const Segment> segments) {
  std::int64_t longest = 0;
  for (const Segment& segment : segments) longest = std::max(longest, segment.k_len);
  return longest;
}

}  // namespace

void amx_attention_forward(Out y, Out lse, In q, In k, In v, Heads heads, std::span<const Segment> segments) {
  thread_local std::vector<ForwardWork> work_store;
  thread_local Buffer memory;
  work_store.clear();
  const std::int64_t width = heads.width, group = heads.query / heads.key_value;
  std::int64_t most_keys = kKeys, pairs = 0;
  for (const Segment& segment : segments) {
    pairs += segment.q_len * segment.k_len * heads.query * width;
    for (std::int64_t h = 0; h < heads.key_value; ++h) {
      for (std::int64_t i = 0; i < segment.q_len; i += kQueriesPerItem) {
        const ForwardWork work{&segment, h, i, std::min(kQueriesPerItem, segment.q_len - i)};
        if (work.queries * group > kBlock) most_keys = std::max(most_keys, work.keys());
        work_store.push_back(work);
      }
    }
  }
  const std::int64_t bytes = (ForwardScratch::bytes(most_keys, width) + 63) / 64 * 64;
  char* const scratch = scratch_of(memory, bytes);
  const ForwardWork* const works = work_store.data();
  const auto count = static_cast<std::int64_t>(work_store.size());
#pragma omp parallel if (pairs > 4 * kParallelElements)
  {
    static constexpr TileConfig kTiles{};
    _tile_loadconfig(&kTiles);
    ForwardScratch s(scratch + bytes * omp_get_thread_num(), most_keys, width);
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t w = 0; w < count; ++w) {
      const Attend attend{y, lse, q, k, v, works[w], group, width};
      const std::int64_t rows = works[w].queries * group;
      if (rows <= kBlock) {
        attend.block(0, rows, nullptr, s);
        continue;
      }
      const PackedKeys packed = s.pack(k, v, works[w], 0, works[w].keys(), width);
      for (std::int64_t i = 0; i < rows; i += kBlock) attend.block(i, std::min(kBlock, rows - i), &packed, s);
    }
    _tile_release();
  }
}

void amx_attention_backward(Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse, Heads heads,
                            std::span<const Segment> segments) {
  thread_local Buffer memory;
  const std::int64_t width = heads.width, group = heads.query / heads.key_value,
                     longest = longest_keys(segments);
  const std::int64_t wide = blocks(width) * kBlock;
  const std::int64_t bytes = (BackwardScratch::bytes(longest, width) + 63) / 64 * 64;
  char* const scratch = scratch_of(memory, bytes);
  const auto count = static_cast<std::int64_t>(segments.size()) * heads.key_value;
#pragma omp parallel if (q.size() > kParallelElements)
  {
    static constexpr TileConfig kTiles{};
    _tile_loadconfig(&kTiles);
    BackwardScratch s(scratch + bytes * omp_get_thread_num(), longest, width);
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t w = 0; w < count; ++w) {
      const Segment& seg = segments[static_cast<std::size_t>(w / heads.key_value)];
      const std::int64_t kv_head = w % heads.key_value, row = seg.q_row, length = seg.q_len;
      const std::int64_t padded = blocks(length) * kBlock;
      const In key_rows = head_of(k, row, length, kv_head, width);
      const Panels keys(key_rows, s.keys), values(head_of(v, row, length, kv_head, width), s.values);
      for (std::int64_t a = 0; a < wide; a += kBlock) {
        for (std::int64_t step = 0; step < blocks(length); ++step)
          pack_rows(s.keys_t + (a / kBlock * blocks(length) + step) * 2 * kTile, key_rows, true, a,
                    step * kBlock);
      }
      std::fill_n(s.d_keys, padded * wide, 0.0f);
      std::fill_n(s.d_values, padded * wide, 0.0f);
      // Queries beyond the segment: their rows are zeros, and exp(0 − 0) does no harm to sums with factor 0.
      std::fill_n(s.lse, padded, 0.0f);
      std::fill_n(s.dots, padded, 0.0f);
      for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        for (std::int64_t i = 0; i < length; ++i) s.lse[i] = lse.row<float>(row + i)[h];
        const auto part = [&](const auto& m) {
          return m.slice_rows(row, length).slice_cols(h * width, width);
        };
        backward_head({part(q), part(y), part(d_y), part(d_q)}, keys, values, s);
      }
      write(d_k, row, kv_head * width, s.d_keys, wide, length, width, {});
      write(d_v, row, kv_head * width, s.d_values, wide, length, width, {});
    }
    _tile_release();
  }
}

STEM_AMX_END

#else

void amx_attention_forward(Out, Out, In, In, In, Heads, std::span<const Segment>) {
  require(false, "amx_attention_forward without AMX");
}
void amx_attention_backward(Out, Out, Out, In, In, In, In, In, In, Heads, std::span<const Segment>) {
  require(false, "amx_attention_backward without AMX");
}

#endif

}  // namespace stem::cpu
