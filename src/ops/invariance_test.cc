// Batch invariance in inference: the bits of an output row do not depend on how many rows are computed with
// it, on chunking, on where its keys lie or on the number of threads.
#include <gtest/gtest.h>

#include <array>
#include <ostream>
#include <string>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "ops/attention.h"
#include "ops/glu.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/moe.h"
#include "ops/norm.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f32 = DType::f32, bf16_type = DType::bf16;

/// A number of threads, for a while.
class Threads {
 public:
  explicit Threads(int count) { set_cpu_threads(count); }
  ~Threads() { set_cpu_threads(0); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
};

struct Setting {
  const Kernels& (*kernels)();
  DType narrow;
};
void PrintTo(const Setting& s, std::ostream* out) {
  *out << s.kernels().name << ' ' << name_of(s.narrow);
}

class InvarianceTest : public ::testing::TestWithParam<Setting> {
 protected:
  const DType narrow = GetParam().narrow;
  Rng rng{9, 1};
  Workspace workspace;
  Context ctx{&GetParam().kernels(), &workspace, true};

  Tensor random(DType dtype, std::int64_t rows, std::int64_t cols) {
    return random_tensor(dtype, rows, cols, rng);
  }

  /// compute(first, count) gives rows [first, first + count): every partition and thread count must agree
  /// with the rows computed one by one on one thread.
  void expect_invariant(std::int64_t rows, const std::function<Tensor(std::int64_t, std::int64_t)>& compute) {
    std::vector<Tensor> single;
    {
      const Threads one(1);
      for (std::int64_t n = 0; n < rows; ++n) single.push_back(compute(n, 1));
    }
    for (const int threads : {1, 2}) {
      const Threads some(threads);
      for (const std::int64_t chunk : {1L, 3L, 4L, 17L, rows}) {
        for (std::int64_t first = 0; first < rows; first += chunk) {
          const std::int64_t count = std::min(chunk, rows - first);
          const Tensor part = compute(first, count);
          for (std::int64_t n = 0; n < count; ++n) {
            ASSERT_TRUE(same_bits(part.view.slice_rows(n, 1), single[static_cast<std::size_t>(first + n)]))
                << "row " << first + n << " in a chunk of " << count << " with " << threads << " threads";
          }
        }
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, InvarianceTest,
                         ::testing::Values(Setting{reference_kernels, f32}, Setting{cpu_kernels, f32},
                                           Setting{cpu_kernels, bf16_type}),
                         [](const auto& test) {
                           return std::string(test.param.kernels().name) + "_" +
                                  std::string(name_of(test.param.narrow));
                         });

TEST_P(InvarianceTest, Linear) {
  for (const auto [in, outs] : {std::array{33L, 67L}, {300L, 130L}, {8201L, 9L}}) {
    const Tensor w = random(narrow, outs, in);
    const std::int64_t rows = 37;
    for (const DType x_type : {narrow, f32}) {
      const Tensor x = random(x_type, rows, in), residual = random(f32, rows, outs);
      for (const DType y_type : {f32, narrow}) {
        expect_invariant(rows, [&](std::int64_t first, std::int64_t count) {
          Tensor y(y_type, count, outs);
          linear_forward(ctx, y, x.view.slice_rows(first, count), {w});
          return y;
        });
      }
      expect_invariant(rows, [&](std::int64_t first, std::int64_t count) {
        Tensor y = copy_of(residual.view.slice_rows(first, count));
        linear_forward(ctx, y, x.view.slice_rows(first, count), {w}, y);
        return y;
      });
    }
  }
}

TEST_P(InvarianceTest, AttentionInChunksOfQueries) {
  const std::int64_t length = 150;
  for (const Heads heads : {Heads{3, 3, 5}, Heads{4, 2, 16}, Heads{6, 1, 64}}) {
    const std::int64_t query = heads.query * heads.width, key = heads.key_value * heads.width;
    const Tensor qkv = random(narrow, length, query + 2 * key);
    expect_invariant(length, [&](std::int64_t first, std::int64_t count) {
      Tensor y(narrow, count, query);
      const std::array chunk{Segment{0, count, 0, first + count}};
      attention_forward(ctx, y, Out{}, qkv.view.slice_rows(first, count).slice_cols(0, query),
                        qkv.view.slice_cols(query, key), qkv.view.slice_cols(query + key, key), heads, chunk);
      return y;
    });
  }
}

TEST_P(InvarianceTest, AttentionAmongOtherRequests) {
  const Heads heads{4, 2, 16};
  const Tensor q = random(narrow, 30, 64), k = random(narrow, 700, 32), v = random(narrow, 700, 32);
  const std::vector<Segment> requests{
      {0, 1, 0, 300}, {1, 7, 300, 7}, {8, 1, 310, 129}, {9, 20, 450, 200}, {29, 1, 0, 1}};
  Tensor together(narrow, 30, 64);
  attention_forward(ctx, together, Out{}, q, k, v, heads, requests);
  for (const int threads : {1, 2}) {
    const Threads some(threads);
    for (const Segment& s : requests) {
      // Alone, and with its keys at the start of another cache.
      const Tensor own_k = copy_of(k.view.slice_rows(s.k_row, s.k_len)),
                   own_v = copy_of(v.view.slice_rows(s.k_row, s.k_len));
      const std::array alone{Segment{0, s.q_len, 0, s.k_len}};
      Tensor y(narrow, s.q_len, 64);
      attention_forward(ctx, y, Out{}, q.view.slice_rows(s.q_row, s.q_len), own_k, own_v, heads, alone);
      EXPECT_TRUE(same_bits(y, together.view.slice_rows(s.q_row, s.q_len))) << s.q_row << ' ' << threads;
    }
  }
}

TEST_P(InvarianceTest, AttentionIgnoresWhatItMayNotSee) {
  const Heads heads{4, 2, 16};
  const std::int64_t length = 150, changed = 77;
  const Tensor q = random(narrow, length, 64);
  Tensor k = random(narrow, length, 32), v = random(narrow, length, 32);
  const std::array whole{Segment{0, length, 0, length}};
  Tensor before(narrow, length, 64), after(narrow, length, 64);
  for (const bool inference : {false, true}) {
    const Context either{ctx.kernels, &workspace, inference};
    attention_forward(either, before, Out{}, q, k, v, heads, whole);
    fill_random(k.view.slice_rows(changed, 1), rng, 1e3);
    fill_random(v.view.slice_rows(changed, 1), rng, 1e3);
    attention_forward(either, after, Out{}, q, k, v, heads, whole);
    EXPECT_TRUE(same_bits(after.view.slice_rows(0, changed), before.view.slice_rows(0, changed)))
        << inference;
    EXPECT_FALSE(same_bits(after.view.slice_rows(changed, 1), before.view.slice_rows(changed, 1)))
        << inference;
  }
}

TEST_P(InvarianceTest, RowwiseOperations) {
  const std::int64_t rows = 40, width = 906;
  const Tensor x = random(f32, rows, width), weight = random(f32, 1, width);
  const Tensor gate = random(narrow, rows, width), up = random(narrow, rows, width);
  std::vector<std::int32_t> tokens, positions;
  for (std::int32_t n = 0; n < rows; ++n) {
    tokens.push_back(n % 7);
    positions.push_back(n * 3);
  }
  const TokenRows read(tokens, 7, width, narrow, f32, rng, 3, 0.5f);
  Tensor table(f32, 128, 302);
  rope_table(table, 10000.0);
  expect_invariant(rows, [&](std::int64_t first, std::int64_t count) {
    const RowPointers part{read.pointers.data() + first, count, width};
    const auto here = std::span<const std::int32_t>(positions).subspan(static_cast<std::size_t>(first),
                                                                       static_cast<std::size_t>(count));
    const In a = gate.view.slice_rows(first, count), b = up.view.slice_rows(first, count);
    Tensor all(narrow, count, 6 * width);
    const auto result = [&](std::int64_t i) { return all.view.slice_cols(i * width, width); };
    rms_norm_forward(ctx, result(0), Out{}, x.view.slice_rows(first, count), weight, 1e-5);
    swiglu_forward(ctx, result(1), a, b);
    stem_forward(ctx, result(2), a, part);
    stem_gate_forward(ctx, result(3), b, part);
    stem_additive_forward(ctx, result(4), a, b, part);
    convert(ctx, result(5), a);
    rope_forward(ctx, result(5), 3, table, here);
    return all;
  });
}

// Router, products on the slices of experts and their combination, as model/experts.cc composes them.
TEST_P(InvarianceTest, MixtureOfExperts) {
  const std::int64_t rows = 40, width = 33, experts = 5, chosen = 2;
  const Tensor x = random(f32, rows, width), router = random(narrow, experts, width),
               weights = random(narrow, experts * width, width), residual = random(f32, rows, width);
  expect_invariant(rows, [&](std::int64_t first, std::int64_t count) {
    const Workspace::Scope scope(workspace);
    const In here = x.view.slice_rows(first, count);
    Dispatch d = allocate_dispatch(ctx, count, chosen, experts);
    Tensor logits(f32, count, experts), probabilities(f32, count, experts), lse(f32, 1, count),
        mix(f32, count, chosen), out = copy_of(residual.view.slice_rows(first, count));
    linear_forward(ctx, logits, here, {router});
    route_forward(ctx, probabilities, lse, mix, d, logits);
    sort_by_expert(ctx, d);
    Tensor sorted(f32, d.row_count(), width), y(f32, d.row_count(), width);
    dispatch_forward(ctx, sorted, here, d);
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t begin = d.offsets[e], of_expert = d.offsets[e + 1] - begin;
      linear_forward(ctx, y.view.slice_rows(begin, of_expert), sorted.view.slice_rows(begin, of_expert),
                     {weights.view.slice_rows(e * width, width)});
    }
    combine_forward(ctx, out, y, mix, d);
    return out;
  });
}

TEST_P(InvarianceTest, Loss) {
  const std::int64_t rows = 40, width = 33, vocab = 301;
  const Tensor x = random(narrow, rows, width), head = random(narrow, vocab, width);
  std::vector<std::int32_t> targets;
  for (std::int32_t n = 0; n < rows; ++n) targets.push_back(n * 7);
  expect_invariant(rows, [&](std::int64_t first, std::int64_t count) {
    Tensor loss(f32, 1, count), column(f32, count, 1);
    lm_head_loss_forward(ctx, loss, x.view.slice_rows(first, count), {head},
                         std::span<const std::int32_t>(targets).subspan(static_cast<std::size_t>(first),
                                                                        static_cast<std::size_t>(count)));
    for (std::int64_t n = 0; n < count; ++n) set(column, n, 0, get(loss, 0, n));
    return column;
  });
}

}  // namespace
}  // namespace stem
