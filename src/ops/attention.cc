#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/weight_format.h"
#include "ops/checks.h"
#include "ops/linear.h"

namespace stem {
namespace {

template <class T>
void fill_rope_table(const Out& cos_sin, double theta, const RopeScaling& scaling) {
  const std::int64_t half = cos_sin.cols / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency =
        scaling.scaled(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(cos_sin.cols)));
    for (std::int64_t p = 0; p < cos_sin.rows; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      T* row = cos_sin.row<T>(p);
      row[i] = static_cast<T>(std::cos(angle));
      row[half + i] = static_cast<T>(std::sin(angle));
    }
  }
}

void rotate(const Context& ctx, const Out& x, std::int64_t heads, const In& cos_sin,
            std::span<const std::int32_t> positions, bool inverse) {
  require(heads > 0 && x.cols == heads * cos_sin.cols, "rope: x is not [N, heads·A]");
  require_matrix(x, x.rows, x.cols, "rope: x");
  require_wide(cos_sin, cos_sin.rows, cos_sin.cols, "rope: cos_sin is not wide");
  require(cos_sin.cols % 2 == 0, "rope: odd head width");
  require(positions.size() == static_cast<std::size_t>(x.rows), "rope: not one position per row");
  for (const std::int32_t p : positions)
    require(p >= 0 && p < cos_sin.rows, "rope: position beyond the table");
  kernels_of(ctx).rope.rope(x, heads, cos_sin, positions, inverse);
}

// Keys or values [M, K·stored_width].
void require_keys(const In& m, const Heads& heads, std::string_view what) {
  const std::int64_t cols = heads.key_value * heads.stored_width(m.dtype);
  if (m.dtype != DType::i8) return require_matrix(m, m.rows, cols, what);
  require(heads.width % kWeightGroup == 0, "attention: heads in i8 are no multiple of 32 wide");
  require(m.cols == cols && m.stride >= cols && (m.data != nullptr || m.rows == 0), what);
}

// `cached`: keys and values may be stored narrower than q.
void require_attention_shapes(const In& q, const In& k, const In& v, const Heads& heads,
                              std::span<const Segment> segments, bool cached = false) {
  require(heads.key_value > 0 && heads.query % heads.key_value == 0, "attention: K does not divide H");
  require_matrix(q, q.rows, heads.query * heads.width, "attention: q is not [N, H·A]");
  require_keys(k, heads, "attention: k is not [M, K·A]");
  require_keys(v, heads, "attention: v is not [M, K·A]");
  require(k.rows == v.rows, "attention: k and v differ in rows");
  const bool narrower = cached && (k.dtype == DType::bf16 || k.dtype == DType::i8);
  require(k.dtype == v.dtype && (q.dtype == k.dtype || narrower), "attention: q, k and v differ in dtype");
  for (const Segment& s : segments) {
    require(s.q_row >= 0 && s.q_len >= 0 && s.q_row + s.q_len <= q.rows, "attention: segment beyond q");
    require(s.k_row >= 0 && s.k_len >= s.q_len && s.k_row + s.k_len <= k.rows, "attention: segment beyond k");
  }
}

}  // namespace

double RopeScaling::scaled(double frequency) const {
  if (kind == Kind::none) return frequency;
  if (kind == Kind::linear) return frequency / factor;
  const double turns = original_positions * frequency / (2.0 * std::acos(-1.0));  // original / λ
  const double smooth = std::clamp((turns - low) / (high - low), 0.0, 1.0);
  return frequency * ((1.0 - smooth) / factor + smooth);
}

void rope_table(Out cos_sin, double theta, const RopeScaling& scaling) {
  require(cos_sin.cols % 2 == 0 && theta > 0.0, "rope_table: odd head width or theta not positive");
  require(is_wide(cos_sin.dtype), "rope_table: cos_sin is not wide");
  if (cos_sin.dtype == DType::f64) {
    fill_rope_table<double>(cos_sin, theta, scaling);
  } else {
    fill_rope_table<float>(cos_sin, theta, scaling);
  }
}

void rope_forward(const Context& ctx, Out x, std::int64_t heads, In cos_sin,
                  std::span<const std::int32_t> positions) {
  rotate(ctx, x, heads, cos_sin, positions, false);
}

void rope_backward(const Context& ctx, Out d_x, std::int64_t heads, In cos_sin,
                   std::span<const std::int32_t> positions) {
  rotate(ctx, d_x, heads, cos_sin, positions, true);
}

void attention_forward(const Context& ctx, Out y, Out lse, In q, In k, In v, Heads heads,
                       std::span<const Segment> segments) {
  require_attention_shapes(q, k, v, heads, segments, ctx.inference);
  require_matrix(y, q.rows, q.cols, "attention_forward: y is not [N, H·A]");
  require(y.dtype == q.dtype, "attention_forward: y and q differ in dtype");
  if (ctx.inference) {
    require(!lse, "attention_forward: lse is not kept in inference");
    kernels_of(ctx).attention.attention_invariant(y, q, k, v, heads, segments);
    return;
  }
  if (lse) require_wide(lse, q.rows, heads.query, "attention_forward: lse is not wide [N, H]");
  kernels_of(ctx).attention.attention_forward(y, lse, q, k, v, heads, segments);
}

void store_keys(const Context& ctx, Out to, In from, Heads heads) {
  if (to.dtype != DType::i8) return convert(ctx, to, from);
  require_keys(to, heads, "store_keys: to is not [N, K·stored_width]");
  require_wide(from, to.rows, heads.key_value * heads.width, "store_keys: from is not wide [N, K·A]");
  const auto store = [&](std::int64_t n, const float* row) {
    store_row(WeightFormat::int8, {row, static_cast<std::size_t>(from.cols)},
              reinterpret_cast<std::byte*>(to.row<std::int8_t>(n)));
  };
  if (from.dtype == DType::f64) {
    for (std::int64_t n = 0; n < from.rows; ++n) {
      const std::vector<float> row(from.row<double>(n), from.row<double>(n) + from.cols);
      store(n, row.data());
    }
    return;
  }
  for (std::int64_t n = 0; n < from.rows; ++n) store(n, from.row<float>(n));
}

void attention_backward(const Context& ctx, Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse,
                        Heads heads, std::span<const Segment> segments) {
  require(!ctx.inference, "attention_backward in an inference context");
  require_attention_shapes(q, k, v, heads, segments);
  for (const Segment& s : segments) {
    require(s.k_row == s.q_row && s.k_len == s.q_len,
            "attention_backward: keys are not the batch's own rows");
  }
  require_matrix(y, q.rows, q.cols, "attention_backward: y is not [N, H·A]");
  require_matrix(d_y, q.rows, q.cols, "attention_backward: d_y is not [N, H·A]");
  require_matrix(d_q, q.rows, q.cols, "attention_backward: d_q is not [N, H·A]");
  require_matrix(d_k, k.rows, k.cols, "attention_backward: d_k is not [M, K·A]");
  require_matrix(d_v, v.rows, v.cols, "attention_backward: d_v is not [M, K·A]");
  require_wide(lse, q.rows, heads.query, "attention_backward: lse is not wide [N, H]");
  kernels_of(ctx).attention.attention_backward(d_q, d_k, d_v, d_y, q, k, v, y, lse, heads, segments);
}

}  // namespace stem
