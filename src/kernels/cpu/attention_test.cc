// Attention of the cpu backend against the oracle, and the independence of a query from its neighbours.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/against_reference_test.h"

namespace stem::testing {
namespace {

const Kernels& cpu = cpu_kernels();
const Kernels& oracle = reference_kernels();

constexpr Heads kHeads[] = {{1, 1, 5}, {4, 2, 16}, {3, 3, 24}, {4, 2, 32}, {6, 1, 64}};

std::vector<Segment> documents(std::initializer_list<std::int64_t> lengths) {
  std::vector<Segment> segments;
  std::int64_t row = 0;
  for (const std::int64_t length : lengths) {
    segments.push_back({row, length, row, length});
    row += length;
  }
  return segments;
}

/// ‖got − want‖ / ‖want‖
double error_norm(const Matrix& got, const Matrix& want) {
  double difference = 0, whole = 0;
  for (std::int64_t r = 0; r < got.view.rows; ++r) {
    for (std::int64_t c = 0; c < got.view.cols; ++c) {
      const double a = value_at(got, r, c), b = value_at(want, r, c);
      difference += (a - b) * (a - b);
      whole += b * b;
    }
  }
  got.expect_gaps_untouched();
  return std::sqrt(difference / whole);
}

TEST(Attention, ForwardAndBackwardOverDocuments) {
  const std::vector<Segment> segments = documents({1, 20, 64, 65, 150, 290});
  const std::int64_t rows = 590;
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const Heads& heads : kHeads) {
      SCOPED_TRACE(::testing::Message()
                   << "H " << heads.query << " K " << heads.key_value << " A " << heads.width);
      const std::int64_t wide = heads.query * heads.width, narrow = heads.key_value * heads.width;
      const Matrix q = Matrix(type, rows, wide, 3).randomise(1, 4),
                   k = Matrix(type, rows, narrow, 1).randomise(2, 4);
      const Matrix v = Matrix(type, rows, narrow, 5).randomise(3);
      Matrix y(type, rows, wide, 2), lse(DType::f32, rows, heads.query, 1), want_y = y.wide(),
                                                                            want_lse = lse.wide();
      cpu.attention.attention_forward(y, lse, q, k, v, heads, segments);
      oracle.attention.attention_forward(want_y, want_lse, q, k, v, heads, segments);
      const auto expect_right = [&](const Matrix& got, const Matrix& want, double tolerance,
                                    const char* what) {
        // Where products run on bf16 tiles, the probabilities and their gradients are rounded to bf16, too:
        // single elements may be further off, all together may not.
        if (type == DType::bf16) {
          EXPECT_LE(error_norm(got, want), 4e-3) << what;
        } else {
          expect_close(got, want, tolerance, what);
        }
      };
      expect_right(y, want_y, 1e-5, "y");
      expect_close(lse, want_lse, 1e-5, "lse");

      const Matrix d_y = Matrix(type, rows, wide, 2).randomise(4);
      Matrix d_q(type, rows, wide, 3), d_k(type, rows, narrow, 1), d_v(type, rows, narrow, 2);
      Matrix want_q = d_q.wide(), want_k = d_k.wide(), want_v = d_v.wide();
      cpu.attention.attention_backward(d_q, d_k, d_v, d_y, q, k, v, y, lse, heads, segments);
      oracle.attention.attention_backward(want_q, want_k, want_v, d_y, q, k, v, y, lse, heads, segments);
      expect_right(d_q, want_q, 5e-5, "d_q");
      expect_right(d_k, want_k, 5e-5, "d_k");
      expect_right(d_v, want_v, 5e-5, "d_v");
    }
  }
}

TEST(Attention, BackwardDoesNotDependOnThreads) {
  const std::vector<Segment> segments = documents({70, 130});
  const Heads heads{4, 2, 16};
  const auto random = [](std::uint64_t seed, std::int64_t cols) {
    return Matrix(DType::f32, 200, cols).randomise(seed);
  };
  const Matrix q = random(1, 64), k = random(2, 32), v = random(3, 32), y = random(4, 64),
               d_y = random(5, 64);
  const Matrix lse = random(6, 4);
  const auto backward = [&](int count, const Matrix& d_q, const Matrix& d_k, const Matrix& d_v) {
    const Threads threads(count);
    cpu.attention.attention_backward(d_q, d_k, d_v, d_y, q, k, v, y, lse, heads, segments);
  };
  const Matrix q1 = random(9, 64), k1 = random(9, 32), v1 = random(9, 32);
  const Matrix q3 = random(8, 64), k3 = random(8, 32), v3 = random(8, 32);
  backward(1, q1, k1, v1);
  backward(3, q3, k3, v3);
  EXPECT_TRUE(same_bits(q1, q3) && same_bits(k1, k3) && same_bits(v1, v3));
}

/// Keys or values [rows, K·A] as `dtype` keeps them.
Matrix keys(DType dtype, std::int64_t rows, const Heads& heads, std::uint64_t seed, double scale) {
  const std::int64_t narrow = heads.key_value * heads.width;
  if (dtype != DType::i8) return Matrix(dtype, rows, narrow).randomise(seed, scale);
  const Matrix values = Matrix(DType::f32, rows, narrow).randomise(seed, scale);
  Matrix stored(DType::i8, rows, heads.key_value * heads.stored_width(DType::i8));
  for (std::int64_t r = 0; r < rows; ++r)
    store_row(WeightFormat::int8, {In(values).row<float>(r), static_cast<std::size_t>(narrow)},
              reinterpret_cast<std::byte*>(Out(stored).row<std::int8_t>(r)));
  return stored;
}

// A cache of keys that is longer than the queries, read from a row of its own, in chunks of every size: the
// bits are those of the whole.
TEST(Attention, InvariantOverChunksBatchAndThreads) {
  constexpr std::pair<DType, DType> kTypes[] = {{DType::f32, DType::f32},
                                                {DType::bf16, DType::bf16},
                                                {DType::f32, DType::bf16},
                                                {DType::f32, DType::i8}};  // q and y; k and v
  for (const auto& [type, stored] : kTypes) {
    for (const Heads& heads : kHeads) {
      const std::int64_t length = 280, before = 37;  // keys in two chunks of 256, where those are used
      const std::int64_t wide = heads.query * heads.width;
      const Matrix q = Matrix(type, length, wide).randomise(1, 4);
      if (stored == DType::i8 && heads.width % kWeightGroup != 0) continue;
      const Matrix k = keys(stored, before + length, heads, 2, 4);
      const Matrix v = keys(stored, before + length, heads, 3, 1);
      Matrix all(type, length, wide), want(DType::f64, length, wide);
      const Segment whole{0, length, before, length};
      cpu.attention.attention_invariant(all, q, k, v, heads, {&whole, 1});
      oracle.attention.attention_invariant(want, q, k, v, heads, {&whole, 1});
      // Perhaps on tiles, which round queries and probabilities to bf16, and keys and values in int8, too.
      if (stored != DType::f32)
        EXPECT_LE(error_norm(all, want), stored == DType::i8 ? 8e-3 : 4e-3);
      else
        expect_close(all, want, 1e-5, "y");

      const Threads threads(3);
      for (const std::int64_t chunk : {1, 7, 64, 100}) {  // of queries
        Matrix chunked(type, length, wide);
        for (std::int64_t first = 0; first < length; first += chunk) {
          const std::int64_t count = std::min(chunk, length - first);
          // Together with another segment, to see that it does not matter.
          const std::vector<Segment> parts{{0, 1, 0, 90}, {1, count, before, first + count}};
          Matrix in(type, count + 1, wide), out(type, count + 1, wide);
          for (std::int64_t r = 0; r < count; ++r) {
            for (std::int64_t c = 0; c < wide; ++c) set_at(in, r + 1, c, value_at(q, first + r, c));
          }
          cpu.attention.attention_invariant(out, in, k, v, heads, parts);
          ASSERT_TRUE(same_bits(out.view.slice_rows(1, count), all.view.slice_rows(first, count)))
              << "chunk " << chunk << " at " << first;
        }
      }
    }
  }
}

}  // namespace
}  // namespace stem::testing
