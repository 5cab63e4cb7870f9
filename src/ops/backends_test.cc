// Every backend against the oracle by one list of cases: odd shapes, strided views, f32 and bf16. Each list
// ends in a shape that is large enough for more than one thread.
#include <gtest/gtest.h>

#include <array>
#include <ostream>
#include <string>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "ops/attention.h"
#include "ops/embedding.h"
#include "ops/glu.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/moe.h"
#include "ops/norm.h"
#include "ops/numeric_check.h"
#include "ops/stream_match.h"

namespace stem {
namespace {

constexpr DType f32 = DType::f32, bf16_type = DType::bf16;

/// One computation on any backend: writes its results into `out`, which starts with random values.
using Operation = std::function<void(const Context&, const std::vector<Tensor>& out)>;

/// The GEMM's input type; its name is part of the test's.
struct Narrow {
  DType dtype;
};
void PrintTo(const Narrow& narrow, std::ostream* out) {
  *out << name_of(narrow.dtype);
}

class BackendsTest : public ::testing::TestWithParam<Narrow> {
 protected:
  const DType narrow = GetParam().dtype;
  Rng rng{8, 1};
  Workspace workspace;

  Tensor random(DType dtype, std::int64_t rows, std::int64_t cols) {
    return random_tensor(dtype, rows, cols, rng);
  }

  /// Runs on the oracle and on the cpu backend from the same start. Results in bf16 may differ by its
  /// roundings, f32 results by `wide_tolerance`, relative to the largest element. The cpu's must repeat bit
  /// for bit.
  void compare(const std::string& what, const std::vector<In>& start, const Operation& run,
               double wide_tolerance = 1e-5, bool inference = false) {
    std::vector<Tensor> expected, found, again;
    for (const In& t : start) {
      expected.push_back(copy_of(t));
      found.push_back(copy_of(t));
      again.push_back(copy_of(t));
    }
    run({&reference_kernels(), &workspace, inference}, expected);
    run({&cpu_kernels(), &workspace, inference}, found);
    run({&cpu_kernels(), &workspace, inference}, again);
    for (std::size_t i = 0; i < start.size(); ++i) {
      const double tolerance = found[i].view.dtype == bf16_type ? 1e-2 : wide_tolerance;
      EXPECT_LE(relative_error(found[i], expected[i]), tolerance) << what << ", result " << i;
      EXPECT_TRUE(same_bits(found[i], again[i])) << what << ", result " << i << " does not repeat";
    }
  }

  /// Of results that pass through a bf16 intermediate (d_logits).
  double composite_tolerance() const { return narrow == bf16_type ? 1e-2 : 1e-5; }
};

INSTANTIATE_TEST_SUITE_P(Cpu, BackendsTest, ::testing::Values(Narrow{f32}, Narrow{bf16_type}),
                         [](const auto& test) { return std::string(name_of(test.param.dtype)); });

// [rows, in, out]
constexpr std::array<std::array<std::int64_t, 3>, 8> kLinearShapes{{{1, 1, 1},
                                                                    {1, 33, 67},
                                                                    {2, 128, 5},
                                                                    {3, 17, 31},
                                                                    {7, 64, 64},
                                                                    {17, 65, 129},
                                                                    {33, 37, 100},
                                                                    {64, 160, 96}}};

TEST_P(BackendsTest, Gemm) {
  for (const auto [rows, inner_size, cols] : kLinearShapes) {
    for (const int flags : {0, 1, 2, 3, 4, 5, 6, 7}) {
      const bool transpose_a = flags & 1, transpose_b = flags & 2, accumulate = flags & 4;
      const Tensor a = transpose_a ? random(narrow, inner_size, rows) : random(narrow, rows, inner_size);
      const Tensor b = transpose_b ? random(narrow, cols, inner_size) : random(narrow, inner_size, cols);
      compare(fmt::format("{}x{}x{} flags {}", rows, inner_size, cols, flags),
              {random(f32, rows, cols), random(narrow, rows, cols)},
              [&](const Context& ctx, const std::vector<Tensor>& out) {
                for (const Tensor& c : out)
                  ctx.kernels->gemm.gemm(c, a, transpose_a, b, transpose_b, accumulate ? In(c) : In{});
              });
    }
  }
}

TEST_P(BackendsTest, Linear) {
  for (const auto [rows, in, outs] : kLinearShapes) {
    // x, y and d_y are columns of wider matrices, at offsets that no vector likes.
    const Tensor wide_x = random(narrow, rows, in + 5), w = random(narrow, outs, in);
    const Tensor d_y = random(narrow, rows, outs + 3);
    const In x = wide_x.view.slice_cols(3, in);
    const std::string what = fmt::format("{}x{}x{}", rows, in, outs);
    for (const bool inference : {false, true}) {
      compare(
          what + (inference ? " inference" : " training"),
          {random(f32, rows, outs + 4), random(narrow, rows, outs + 4), random(f32, rows, outs)},
          [&](const Context& ctx, const std::vector<Tensor>& out) {
            linear_forward(ctx, out[0].view.slice_cols(1, outs), x, {w});
            linear_forward(ctx, out[1].view.slice_cols(1, outs), x, {w});
            linear_forward(ctx, out[2], x, {w}, out[2]);
          },
          1e-5, inference);
    }
    compare(what + " backward", {random(narrow, rows, in + 2), random(f32, outs, in)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              linear_backward(ctx, out[0].view.slice_cols(1, in), out[1], d_y.view.slice_cols(3, outs), x,
                              {w});
            });
    const Tensor residual = random(f32, rows, in);
    compare(
        what + " inference, wide x", {random(f32, rows, outs), random(narrow, rows, outs)},
        [&](const Context& ctx, const std::vector<Tensor>& out) {
          for (const Tensor& y : out) linear_forward(ctx, y, residual, {w});
        },
        1e-5, true);
  }
}

TEST_P(BackendsTest, RmsNorm) {
  for (const auto [rows, width] : {std::array{1L, 1L}, {1L, 67L}, {5L, 16L}, {37L, 129L}, {131L, 515L}}) {
    const Tensor x = random(f32, rows, width), weight = random(f32, 1, width),
                 d_y = random(narrow, rows, width);
    Tensor inv_rms(f32, 1, rows);
    compare(fmt::format("{}x{}", rows, width),
            {random(narrow, rows, width), random(f32, rows, width), inv_rms},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              rms_norm_forward(ctx, out[0], Out{}, x, weight, 1e-5);
              rms_norm_forward(ctx, out[1], out[2], x, weight, 1e-5);
            });
    rms_norm_forward({&reference_kernels()}, copy_of(x).view, inv_rms, x, weight, 1e-5);
    compare(fmt::format("{}x{} backward", rows, width), {random(f32, rows, width), random(f32, 1, width)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              rms_norm_backward(ctx, out[0], {}, out[1], d_y, x, weight, inv_rms);
            });
  }
}

TEST_P(BackendsTest, StreamMatch) {
  for (const auto [rows, width] : {std::array{1L, 1L}, {1L, 67L}, {5L, 16L}, {37L, 129L}, {131L, 515L}}) {
    const Tensor x = random(f32, rows, width), to = random(f32, rows, width);
    const std::vector<float> weights(static_cast<std::size_t>(rows), 0.3f);
    compare(fmt::format("{}x{}", rows, width),
            {random(f32, 1, rows), random(f32, rows, width), random(narrow, rows, width)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              match_stream(ctx, out[0], out[1], out[2], x, to, weights);
              match_stream(ctx, out[0], out[1], {}, x, to, weights);
            });
  }
}

TEST_P(BackendsTest, HeadNorm) {
  for (const auto [rows, heads, width] :
       {std::array{1L, 1L, 2L}, {1L, 7L, 16L}, {3L, 5L, 66L}, {130L, 2L, 24L}}) {
    const std::int64_t cols = heads * width;
    const Tensor x = random(f32, rows, cols), weight = random(f32, 1, width),
                 d_y = random(narrow, rows, cols);
    const Tensor inv_rms(f32, heads, rows);
    compare(fmt::format("{}x{}x{}", rows, heads, width),
            {random(narrow, rows, cols + 3), random(f32, rows, cols), inv_rms},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              head_norm_forward(ctx, out[0].view.slice_cols(2, cols), Out{}, x, weight, 1e-5);
              head_norm_forward(ctx, out[1], out[2], x, weight, 1e-5);
            });
    head_norm_forward({&reference_kernels()}, copy_of(x).view, inv_rms, x, weight, 1e-5);
    compare(fmt::format("{}x{}x{} backward", rows, heads, width),
            {random(f32, rows, cols), copy_of(d_y), random(f32, 1, width)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              head_norm_backward(ctx, out[0], out[1], out[2], out[1], x, weight, inv_rms);
            });
  }
}

TEST_P(BackendsTest, Bias) {
  for (const auto [rows, cols] : {std::array{1L, 1L}, {1L, 67L}, {5L, 16L}, {37L, 129L}, {300L, 70L}}) {
    const Tensor bias = random(f32, 1, cols), d_y = random(narrow, rows, cols + 5);
    compare(fmt::format("{}x{}", rows, cols),
            {random(narrow, rows, cols + 3), random(f32, rows, cols), random(f32, 1, cols)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              add_bias_forward(ctx, out[0].view.slice_cols(1, cols), bias);
              add_bias_forward(ctx, out[1], bias);
              add_bias_backward(ctx, out[2], d_y.view.slice_cols(4, cols));
            });
  }
}

TEST_P(BackendsTest, Rope) {
  for (const Heads heads : {Heads{1, 1, 2}, Heads{3, 1, 6}, Heads{4, 2, 16}, Heads{2, 2, 128}}) {
    const std::int64_t rows = 9, query = heads.query * heads.width;
    Tensor table(f32, 512, heads.width);
    rope_table(table, 10000.0);
    const std::vector<std::int32_t> positions{0, 1, 2, 3, 511, 0, 77, 300, 5};
    compare(fmt::format("width {}", heads.width),
            {random(narrow, rows, query + 7), random(narrow, rows, query)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              rope_forward(ctx, out[0].view.slice_cols(3, query), heads.query, table, positions);
              rope_backward(ctx, out[1], heads.query, table, positions);
            });
  }
}

constexpr std::array<Heads, 5> kHeadLayouts{{{1, 1, 1}, {3, 3, 5}, {4, 2, 16}, {6, 1, 64}, {2, 1, 128}}};

TEST_P(BackendsTest, AttentionOnColumnsOfAFusedMatrix) {
  const std::array documents{Segment{0, 1, 0, 1}, Segment{1, 70, 1, 70}, Segment{71, 131, 71, 131}};
  const std::int64_t rows = 202;
  for (const Heads heads : kHeadLayouts) {
    const std::int64_t query = heads.query * heads.width, key = heads.key_value * heads.width;
    const Tensor qkv = random(narrow, rows, query + 2 * key), d_y = random(narrow, rows, query);
    const In q = qkv.view.slice_cols(0, query), k = qkv.view.slice_cols(query, key),
             v = qkv.view.slice_cols(query + key, key);
    const std::string what = fmt::format("H {} K {} A {}", heads.query, heads.key_value, heads.width);
    Tensor y(narrow, rows, query), lse(f32, rows, heads.query);
    compare(what, {y, lse}, [&](const Context& ctx, const std::vector<Tensor>& out) {
      attention_forward(ctx, out[0], out[1], q, k, v, heads, documents);
    });
    attention_forward({&reference_kernels()}, y, lse, q, k, v, heads, documents);
    compare(what + " backward", {random(narrow, rows, query + 2 * key)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              const Out d = out[0];
              attention_backward(ctx, d.slice_cols(0, query), d.slice_cols(query, key),
                                 d.slice_cols(query + key, key), d_y, q, k, v, y, lse, heads, documents);
            });
  }
}

TEST_P(BackendsTest, AttentionOverACache) {
  // One new token, a chunk of a prompt and a first token, each with its keys somewhere in a cache.
  const std::array requests{Segment{0, 1, 3, 300}, Segment{1, 9, 310, 77}, Segment{10, 1, 400, 1}};
  for (const Heads heads : kHeadLayouts) {
    const std::int64_t query = heads.query * heads.width, key = heads.key_value * heads.width;
    const Tensor q = random(narrow, 11, query), k = random(narrow, 405, key), v = random(narrow, 405, key);
    compare(
        fmt::format("H {} K {} A {}", heads.query, heads.key_value, heads.width), {random(narrow, 11, query)},
        [&](const Context& ctx, const std::vector<Tensor>& out) {
          attention_forward(ctx, out[0], Out{}, q, k, v, heads, requests);
        },
        1e-5, true);
  }
}

std::vector<std::int32_t> random_tokens(std::int64_t count, std::uint64_t vocab, Rng& rng) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t n = 0; n < count; ++n) tokens.push_back(static_cast<std::int32_t>(rng.below(vocab)));
  return tokens;
}

TEST_P(BackendsTest, GatedProducts) {
  for (const auto [rows, width] : {std::array{1L, 1L}, {1L, 67L}, {5L, 32L}, {37L, 129L}, {131L, 515L}}) {
    for (const DType stored : {f32, bf16_type}) {
      const Tensor gate = random(narrow, rows, width), up = random(narrow, rows, width),
                   d_h = random(narrow, rows, width);
      // Repeated tokens, a token without a row, and rows with a scale.
      const TokenRows read(random_tokens(rows, 11, rng), 11, width, stored, f32, rng, 3, 0.5f);
      const RowPointers table = read.rows();
      const std::string what = fmt::format("{}x{} rows {}", rows, width, name_of(stored));
      const auto activations = [&] { return random(narrow, rows, width); };
      compare(what + " forward", {activations(), activations(), activations(), activations()},
              [&](const Context& ctx, const std::vector<Tensor>& out) {
                swiglu_forward(ctx, out[0], gate, up);
                stem_forward(ctx, out[1], gate, table);
                stem_gate_forward(ctx, out[2], up, table);
                stem_additive_forward(ctx, out[3], gate, up, table);
              });
      const auto into = [&](const Tensor& grads) {
        RowGradients g = read.gradients();
        g.grads = grads.view.data;
        return g;
      };
      const auto row_grads = [&] { return random(f32, read.grads.view.rows, width); };
      compare(what + " backward",
              {activations(), activations(), activations(), activations(), activations(), activations(),
               row_grads(), row_grads(), row_grads()},
              [&](const Context& ctx, const std::vector<Tensor>& out) {
                swiglu_backward(ctx, out[0], out[1], d_h, gate, up);
                stem_backward(ctx, out[2], into(out[6]), d_h, gate, table);
                stem_gate_backward(ctx, out[3], into(out[7]), d_h, up, table);
                stem_additive_backward(ctx, out[4], out[5], into(out[8]), d_h, gate, up, table);
              });
      compare(what + " in place", {copy_of(gate), copy_of(up)},
              [&](const Context& ctx, const std::vector<Tensor>& out) {
                swiglu_backward(ctx, out[0], out[1], d_h, out[0], out[1]);
              });
    }
  }
}

/// Routed on the oracle: what the kernels of both backends are given.
struct Routed {
  Tensor probabilities, lse, mix;
  Dispatch dispatch;

  Routed(Workspace& workspace, const Tensor& logits, std::int64_t chosen)
      : probabilities(f32, logits.view.rows, logits.view.cols),
        lse(f32, 1, logits.view.rows),
        mix(f32, logits.view.rows, chosen) {
    const Context oracle{&reference_kernels(), &workspace};
    dispatch = allocate_dispatch(oracle, logits.view.rows, chosen, logits.view.cols);
    route_forward(oracle, probabilities, lse, mix, dispatch, logits);
    sort_by_expert(oracle, dispatch);
  }
};

// [positions, chosen, experts, width]
constexpr std::array<std::array<std::int64_t, 4>, 5> kMixtures{
    {{1, 1, 1, 1}, {3, 2, 2, 7}, {37, 2, 8, 67}, {29, 3, 5, 33}, {600, 2, 17, 65}}};

TEST_P(BackendsTest, Router) {
  for (const auto [positions, chosen, experts, width] : kMixtures) {
    const Tensor logits = random(f32, positions, experts), d_mix = random(f32, positions, chosen);
    const Routed r(workspace, logits, chosen);
    const std::string what = fmt::format("{} to {} of {}", positions, chosen, experts);
    compare(what, {r.probabilities, r.lse, r.mix, random(f32, 1, 3), random(f32, 1, positions * chosen)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              Dispatch d = allocate_dispatch(ctx, positions, chosen, experts);
              route_forward(ctx, out[0], out[1], out[2], d, logits);
              sort_by_expert(ctx, d);
              const RouterSums sums = router_sums(ctx, out[0], out[1], d);
              set(out[3].view, 0, 0, sums.balance);
              set(out[3].view, 0, 1, sums.z);
              set(out[3].view, 0, 2, sums.entropy);
              for (std::int64_t i = 0; i < positions * chosen; ++i) set(out[4].view, 0, i, d.expert[i]);
            });
    compare(what + " backward", {random(f32, positions, experts)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              route_backward(ctx, out[0], d_mix, r.mix, r.probabilities, r.lse, r.dispatch, 0.3, 0.2);
            });
  }
}

TEST_P(BackendsTest, RowsOfExperts) {
  for (const auto [positions, chosen, experts, width] : kMixtures) {
    const Routed r(workspace, random(f32, positions, experts), chosen);
    const Dispatch& d = r.dispatch;
    const std::int64_t m = d.row_count();
    const Tensor x = random(narrow, positions, width), rows = random(narrow, m, width),
                 wide_rows = random(f32, m, width), d_x = random(f32, positions, width);
    const std::string what = fmt::format("{} to {} of {}, width {}", positions, chosen, experts, width);
    compare(what,
            {random(narrow, m, width + 3), random(narrow, positions, width), random(f32, positions, width),
             random(f32, positions, width), random(f32, positions, width)},
            [&, width = width](const Context& ctx, const std::vector<Tensor>& out) {
              dispatch_forward(ctx, out[0].view.slice_cols(1, width), x, d);
              dispatch_backward(ctx, out[1], rows, d);
              combine_forward(ctx, out[2], rows, r.mix, d);
              combine_forward(ctx, out[3], wide_rows, r.mix, d);
              combine_forward(ctx, out[4], rows, In{}, d);
            });
    compare(what + " backward",
            {random(narrow, m, width), random(f32, positions, chosen), random(narrow, m, width)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              combine_backward(ctx, out[0], out[1], d_x, rows, r.mix, d);
              combine_backward(ctx, out[2], Out{}, d_x, rows, In{}, d);
            });
  }
}

TEST_P(BackendsTest, Embedding) {
  for (const auto [rows, width] : {std::array{1L, 1L}, {5L, 67L}, {200L, 33L}, {131L, 515L}}) {
    const TokenRows read(random_tokens(rows, 17, rng), 17, width, narrow, f32, rng, 3, 0.5f);
    const Tensor d_x = random(f32, rows, width);
    compare(fmt::format("{}x{}", rows, width),
            {random(f32, rows, width), random(f32, read.grads.view.rows, width), random(f32, 17, width)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              RowGradients g = read.gradients();
              g.grads = out[1].view.data;
              embedding_forward(ctx, out[0], read.rows());
              embedding_backward(ctx, g, d_x);
              embedding_backward_dense(ctx, out[2], read.gradients(), read.distinct, d_x);
            });
  }
}

TEST_P(BackendsTest, HeadAndLoss) {
  for (const auto [rows, width, vocab] : {std::array{1L, 3L, 2L}, {5L, 33L, 67L}, {35L, 5L, 70001L}}) {
    const Tensor x = random(narrow, rows, width), head = random(narrow, vocab, width);
    std::vector<std::int32_t> targets = random_tokens(rows, static_cast<std::uint64_t>(vocab), rng);
    if (rows > 1) targets[1] = -1;
    std::vector<float> weights;
    for (std::int64_t n = 0; n < rows; ++n) weights.push_back(static_cast<float>(rng.uniform()));
    const std::string what = fmt::format("{}x{}x{}", rows, width, vocab);
    compare(
        what,
        {random(f32, 1, rows), random(f32, 1, rows), random(narrow, rows, width), random(f32, vocab, width)},
        [&](const Context& ctx, const std::vector<Tensor>& out) {
          lm_head_loss_forward(ctx, out[0], x, {head}, targets);
          lm_head_loss_forward_backward(ctx, out[1], out[2], out[3], x, {head}, targets, weights);
        },
        composite_tolerance());
    const Tensor teacher = random(narrow, rows, width + 3), teacher_head = random(narrow, vocab, width + 3);
    compare(
        what + " teacher", {random(f32, 1, rows), random(narrow, rows, width), random(f32, vocab, width)},
        [&](const Context& ctx, const std::vector<Tensor>& out) {
          lm_head_loss_forward_backward(ctx, out[0], out[1], out[2], x, {head}, targets, weights,
                                        {teacher, {teacher_head}});
        },
        composite_tolerance());
    compare(
        what + " inference", {random(f32, 1, rows)},
        [&](const Context& ctx, const std::vector<Tensor>& out) {
          lm_head_loss_forward(ctx, out[0], x, {head}, targets);
        },
        1e-5, true);
  }
}

TEST_P(BackendsTest, Optimizer) {
  for (const std::int64_t size : {1L, 67L, 70001L}) {
    const Tensor g = random(f32, 1, size);
    Tensor second = random(f32, 1, size);
    for (std::int64_t i = 0; i < size; ++i) set(second, 0, i, std::abs(get(second, 0, i)));
    const AdamW settings{.lr = 0.01f, .decay = 0.1f, .step = 3, .grad_scale = 0.5f};
    compare(fmt::format("adamw {}", size),
            {random(f32, 1, size), random(f32, 1, size), second, random(narrow, 1, size)},
            [&](const Context& ctx, const std::vector<Tensor>& out) {
              ctx.kernels->optimizer.adamw(out[0], out[1], out[2], g, out[3], settings);
              const Tensor rounded(narrow, 1, size);
              convert(ctx, rounded, out[0]);
              EXPECT_TRUE(same_bits(out[3], rounded))
                  << ctx.kernels->name << ": copy is not the weight, rounded";
            });
    const double norm = reference_kernels().optimizer.squared_norm(g);
    EXPECT_NEAR(cpu_kernels().optimizer.squared_norm(g), norm, 1e-12 * norm);
  }
  const std::array<std::int32_t, 3> ids{5, 0, 9};
  const Tensor g = random(f32, 3, 33);
  Tensor second(f32, 11, 33);
  compare("adamw_rows", {random(f32, 11, 33), random(f32, 11, 33), second},
          [&](const Context& ctx, const std::vector<Tensor>& out) {
            ctx.kernels->optimizer.adamw_rows(out[0], out[1], out[2], g, ids,
                                              {.lr = 0.01f, .decay = 0.1f, .step = 2});
          });
}

TEST_P(BackendsTest, ConversionIsExact) {
  const Tensor wide = random(f32, 7, 67);
  Tensor expected(narrow, 7, 67), found(narrow, 7, 67), back(f32, 7, 67), back_expected(f32, 7, 67);
  convert({&reference_kernels()}, expected, wide);
  convert({&cpu_kernels()}, found, wide);
  EXPECT_TRUE(same_bits(found, expected));
  convert({&reference_kernels()}, back_expected, expected);
  convert({&cpu_kernels()}, back, expected);
  EXPECT_TRUE(same_bits(back, back_expected));
}

}  // namespace
}  // namespace stem
