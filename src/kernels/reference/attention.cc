// Rotary embedding and causal grouped-query attention, one query and head at a time.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/families.h"
#include "kernels/reference/rows_as_doubles.h"

namespace stem::reference {
namespace {

void rope(Out x, std::int64_t heads, In cos_sin, std::span<const std::int32_t> positions, bool inverse) {
  const std::int64_t width = x.cols / heads, half = width / 2;
  for (std::int64_t n = 0; n < x.rows; ++n) {
    const Row angles = load_row(cos_sin, positions[static_cast<std::size_t>(n)]);
    Row values = load_row(x, n);
    for (std::int64_t h = 0; h < heads; ++h) {
      double* first = values.data() + h * width;
      double* second = first + half;
      for (std::int64_t i = 0; i < half; ++i) {
        const double cosine = angles[static_cast<std::size_t>(i)];
        const double sine = (inverse ? -1.0 : 1.0) * angles[static_cast<std::size_t>(half + i)];
        const double a = first[i], b = second[i];
        first[i] = a * cosine - b * sine;
        second[i] = b * cosine + a * sine;
      }
    }
    store_row(x, n, values);
  }
}

double dot(const double* a, const double* b, std::int64_t width) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < width; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(double* to, double factor, const double* from, std::int64_t width) {
  for (std::int64_t i = 0; i < width; ++i) to[i] += factor * from[i];
}

/// Query i of a segment sees the keys [0, visible).
std::int64_t visible_keys(const Segment& s, std::int64_t i) {
  return i + 1 + (s.k_len - s.q_len);
}

/// Keys or values [M, K·A], however they are stored.
Matrix load_keys(const In& stored, const Heads& heads) {
  if (stored.dtype != DType::i8) return load_matrix(stored);
  Matrix opened(stored.rows, heads.key_value * heads.width);
  std::vector<float> row(static_cast<std::size_t>(heads.key_value * heads.width));
  for (std::int64_t n = 0; n < stored.rows; ++n) {
    read_row(WeightFormat::int8, reinterpret_cast<const std::byte*>(stored.row<std::int8_t>(n)), row);
    std::copy(row.begin(), row.end(), opened[n]);
  }
  return opened;
}

void attention_forward(Out y, Out lse, In q, In k, In v, Heads heads, std::span<const Segment> segments) {
  const std::int64_t width = heads.width, group = heads.query / heads.key_value;
  const double scale = 1.0 / std::sqrt(static_cast<double>(width));
  for (const Segment& s : segments) {
    const Matrix queries = load_matrix(q.slice_rows(s.q_row, s.q_len));
    const Matrix keys = load_keys(k.slice_rows(s.k_row, s.k_len), heads);
    const Matrix values = load_keys(v.slice_rows(s.k_row, s.k_len), heads);
    Matrix result(s.q_len, heads.query * width), log_sums(s.q_len, heads.query);
    Row p(static_cast<std::size_t>(s.k_len));

    for (std::int64_t i = 0; i < s.q_len; ++i) {
      const auto visible = static_cast<std::size_t>(visible_keys(s, i));
      for (std::int64_t h = 0; h < heads.query; ++h) {
        const std::int64_t column = h / group * width;  // of this head's keys and values
        const double* query = queries[i] + h * width;
        double* out = result[i] + h * width;

        double top = -std::numeric_limits<double>::infinity();
        for (std::size_t j = 0; j < visible; ++j) {
          p[j] = scale * dot(query, keys[static_cast<std::int64_t>(j)] + column, width);
          top = std::max(top, p[j]);
        }
        double sum = 0.0;
        for (std::size_t j = 0; j < visible; ++j) {
          p[j] = std::exp(p[j] - top);
          sum += p[j];
        }
        for (std::size_t j = 0; j < visible; ++j) {
          add_scaled(out, p[j] / sum, values[static_cast<std::int64_t>(j)] + column, width);
        }
        log_sums[i][h] = top + std::log(sum);
      }
    }
    store_matrix(y.slice_rows(s.q_row, s.q_len), result);
    if (lse) store_matrix(lse.slice_rows(s.q_row, s.q_len), log_sums);
  }
}

// With P the probabilities, dP = d_y vᵀ and δ = Σ_a d_y ⊙ y (= Σ_j P ⊙ dP):
//   d_v = Pᵀ d_y,   dS = P ⊙ (dP − δ),   d_q = dS k / √A,   d_k = dSᵀ q / √A.
void attention_backward(Out d_q, Out d_k, Out d_v, In d_y, In q, In k, In v, In y, In lse, Heads heads,
                        std::span<const Segment> segments) {
  const std::int64_t width = heads.width, group = heads.query / heads.key_value;
  const double scale = 1.0 / std::sqrt(static_cast<double>(width));
  for (const Segment& s : segments) {
    const Matrix queries = load_matrix(q.slice_rows(s.q_row, s.q_len));
    const Matrix keys = load_matrix(k.slice_rows(s.k_row, s.k_len));
    const Matrix values = load_matrix(v.slice_rows(s.k_row, s.k_len));
    const Matrix results = load_matrix(y.slice_rows(s.q_row, s.q_len));
    const Matrix d_results = load_matrix(d_y.slice_rows(s.q_row, s.q_len));
    const Matrix log_sums = load_matrix(lse.slice_rows(s.q_row, s.q_len));
    Matrix d_queries(s.q_len, heads.query * width);
    Matrix d_keys(s.k_len, heads.key_value * width), d_values(s.k_len, heads.key_value * width);

    for (std::int64_t i = 0; i < s.q_len; ++i) {
      for (std::int64_t h = 0; h < heads.query; ++h) {
        const std::int64_t column = h / group * width;
        const double* query = queries[i] + h * width;
        const double* d_out = d_results[i] + h * width;
        const double delta = dot(d_out, results[i] + h * width, width);
        for (std::int64_t j = 0; j < visible_keys(s, i); ++j) {
          const double p = std::exp(scale * dot(query, keys[j] + column, width) - log_sums[i][h]);
          const double d_score = p * (dot(d_out, values[j] + column, width) - delta) * scale;
          add_scaled(d_values[j] + column, p, d_out, width);
          add_scaled(d_keys[j] + column, d_score, query, width);
          add_scaled(d_queries[i] + h * width, d_score, keys[j] + column, width);
        }
      }
    }
    store_matrix(d_q.slice_rows(s.q_row, s.q_len), d_queries);
    store_matrix(d_k.slice_rows(s.k_row, s.k_len), d_keys);
    store_matrix(d_v.slice_rows(s.k_row, s.k_len), d_values);
  }
}

// A query's sums above already run over its own keys only, in ascending order.
void attention_invariant(Out y, In q, In k, In v, Heads heads, std::span<const Segment> segments) {
  attention_forward(y, Out{}, q, k, v, heads, segments);
}

}  // namespace

RopeKernels rope_kernels() {
  return {.rope = rope};
}

AttentionKernels attention_kernels() {
  return {.attention_forward = attention_forward,
          .attention_backward = attention_backward,
          .attention_invariant = attention_invariant};
}

}  // namespace stem::reference
