// Mixtures of experts in the model: against a plain loop over positions, their losses' gradients in f64, what
// a batch's order and company may change, and what is counted.
#include "model/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

namespace stem {
namespace {

constexpr FfnVariant kMixtures[] = {FfnVariant::hash_moe, FfnVariant::moe};

ModelConfig small(FfnVariant variant) {
  ModelConfig c;
  c.vocab = 23;
  c.width = 16;
  c.layers = 3;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_width = 8;
  c.ffn = 12;
  c.max_positions = 16;
  c.variant = variant;
  c.stem_layers = {0, 2};
  c.experts.experts = 4;
  c.validate("test");
  return c;
}

double at(In m, std::int64_t r, std::int64_t c) {
  return m.dtype == DType::f64 ? m.row<double>(r)[c] : static_cast<double>(m.row<float>(r)[c]);
}

/// Sequences of 6 tokens and their next tokens as targets.
struct TestBatch {
  std::vector<std::int32_t> tokens, positions, targets;
  std::vector<Segment> segments;
  std::vector<float> weights;

  explicit TestBatch(std::int64_t sequences, std::uint64_t seed = 3) {
    Rng rng(seed, 1);
    for (std::int64_t s = 0; s < sequences; ++s) {
      segments.push_back({6 * s, 6, 6 * s, 6});
      for (std::int32_t i = 0; i < 6; ++i) {
        tokens.push_back(static_cast<std::int32_t>(rng.below(23)));
        positions.push_back(i);
        targets.push_back(i == 5 ? -1 : static_cast<std::int32_t>(rng.below(23)));
      }
    }
    weights.assign(tokens.size(), 1.0f / static_cast<float>(5 * sequences));
  }
  TokenBatch view() const { return {tokens, positions, segments, {}}; }
};

/// One forward and backward.
struct Pass {
  Workspace workspace;
  Context ctx;
  Gradients gradients;
  Activations a;
  Out loss;
  double cross_entropy = 0;

  Pass(const Kernels& kernels, const Model& model, const TestBatch& b, double auxiliary_weight = 1)
      : ctx{&kernels, &workspace, false} {
    const TokenBatch batch = b.view();
    const RowPlan rows(model.table, batch);
    const TokenGroups groups(b.tokens);
    gradients.auxiliary_weight = auxiliary_weight;
    a = allocate_activations(ctx, model, batch.size());
    prepare_gradients(ctx, model, groups, gradients);
    forward_hidden(ctx, model, batch, rows, a);
    loss = workspace.matrix(model.precision.wide, 1, batch.size());
    backward(ctx, model, batch, rows, groups, a, b.targets, b.weights, loss, gradients);
    for (std::int64_t n = 0; n < batch.size(); ++n)
      cross_entropy += at(loss, 0, n) * static_cast<double>(b.weights[static_cast<std::size_t>(n)]);
  }
};

Model random_model(const ModelConfig& c, DType dtype, std::uint64_t seed = 5) {
  Model model(c, {dtype, dtype});
  init_weights(model, seed);
  return model;
}

TEST(Mixture, HasNoTableAnywhere) {
  for (const FfnVariant variant : kMixtures) {
    const Model model = random_model(small(variant), DType::f32);
    EXPECT_FALSE(model.config.has_table());
    EXPECT_EQ(model.config.stem_layer_count(), 0);
    EXPECT_EQ(model.config.stem_index(2), -1);
    EXPECT_EQ(model.config.ffn_of(2), variant);
    EXPECT_EQ(model.config.ffn_of(1), FfnVariant::dense);
    EXPECT_FALSE(model.table.present());
    EXPECT_EQ(model.table.shape().size(), 0);
    const Pass pass(cpu_kernels(), model, TestBatch(2));
    EXPECT_FALSE(pass.gradients.rows);
  }
}

// The last layer's output from its normed input, position by position, as the formula says.
TEST(Mixture, IsThePlainLoopOverPositions) {
  const auto silu = [](double v) { return v / (1 + std::exp(-v)); };
  for (const FfnVariant variant : kMixtures) {
    const ModelConfig c = small(variant);
    const Model model = random_model(c, DType::f64);
    const TestBatch b(7);
    const Pass pass(reference_kernels(), model, b);
    const ExpertShape e = c.expert_shape();
    const LayerSaved& s = pass.a.layers[2];
    const LayerTensors& w = model.weights.layers[2];
    for (std::int64_t n = 0; n < b.view().size(); ++n) {
      const double* x = s.normed_ffn.row<double>(n);
      const auto dot = [](In m, std::int64_t row, const double* v) {
        return std::inner_product(v, v + m.cols, m.row<double>(row), 0.0);
      };
      std::vector<std::int64_t> order(static_cast<std::size_t>(e.experts));
      std::vector<double> logits(order.size(), 0.0), weight(order.size(), 0.0);
      std::iota(order.begin(), order.end(), 0);
      if (variant == FfnVariant::hash_moe) {
        const auto own = static_cast<std::size_t>(b.tokens[static_cast<std::size_t>(n)]);
        weight[static_cast<std::size_t>(model.hashed_expert[own])] = 1;
      } else {
        for (std::int64_t i = 0; i < e.experts; ++i)
          logits[static_cast<std::size_t>(i)] = dot(w.router, i, x);
        std::sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
          return logits[static_cast<std::size_t>(i)] > logits[static_cast<std::size_t>(j)];
        });
        double total = 0;
        for (std::int64_t j = 0; j < e.chosen; ++j)
          total += std::exp(logits[static_cast<std::size_t>(order[static_cast<std::size_t>(j)])]);
        for (std::int64_t j = 0; j < e.chosen; ++j) {
          const auto i = static_cast<std::size_t>(order[static_cast<std::size_t>(j)]);
          weight[i] = std::exp(logits[i]) / total;
        }
      }
      std::vector<double> y(s.x_mid.row<double>(n), s.x_mid.row<double>(n) + c.width);
      for (std::int64_t i = 0; i < e.experts; ++i) {
        std::vector<double> h;
        for (std::int64_t f = 0; f < e.width; ++f) {
          const std::int64_t row = 2 * i * e.width + f;
          h.push_back(silu(dot(w.experts_gate_up, row, x)) * dot(w.experts_gate_up, row + e.width, x));
        }
        for (std::int64_t k = 0; k < c.width; ++k) {
          y[static_cast<std::size_t>(k)] +=
              weight[static_cast<std::size_t>(i)] * dot(w.experts_down, i * c.width + k, h.data());
        }
      }
      for (std::int64_t k = 0; k < c.width; ++k)
        ASSERT_NEAR(at(pass.a.x, n, k), y[static_cast<std::size_t>(k)], 1e-12)
            << name_of(variant) << ' ' << n;
    }
  }
}

// Central differences of Σ weights·loss + auxiliary_weight·(both auxiliary losses), with large coefficients.
TEST(Mixture, GradientsAgreeWithCentralDifferences) {
  for (const FfnVariant variant : kMixtures) {
    ModelConfig c = small(variant);
    c.experts.balance_loss = 0.5;
    c.experts.z_loss = 0.3;
    Model model = random_model(c, DType::f64);
    const TestBatch b(3);
    constexpr double kWeight = 0.7;
    const Pass pass(reference_kernels(), model, b, kWeight);
    EXPECT_EQ(pass.a.router.auxiliary_loss() > 0, variant == FfnVariant::moe);
    const auto objective = [&] {
      const Pass other(reference_kernels(), model, b, kWeight);
      return other.cross_entropy + kWeight * other.a.router.auxiliary_loss();
    };
    std::vector<std::pair<std::string, Out>> tensors;
    for_each_tensor(c, model.weights,
                    [&](const std::string& name, Out view, TensorKind) { tensors.emplace_back(name, view); });
    std::size_t i = 0;
    Rng rng(1, 1);
    for_each_tensor(c, pass.gradients.dense, [&](const std::string& name, Out grad, TensorKind) {
      const Out view = tensors[i++].second;
      for (int sample = 0; sample < 2; ++sample) {
        const auto r = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(grad.rows)));
        const auto k = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(grad.cols)));
        double& x = view.row<double>(r)[k];
        const double before = x, h = 1e-5;
        x = before + h;
        const double above = objective();
        x = before - h;
        const double below = objective();
        x = before;
        const double numeric = (above - below) / (2 * h);
        EXPECT_NEAR(at(grad, r, k), numeric, 1e-8 + 1e-6 * std::abs(numeric)) << name << ' ' << r << ' ' << k;
      }
    });
  }
}

TEST(Mixture, AuxiliaryWeightScalesTheirGradientsAlone) {
  const Model model = random_model(small(FfnVariant::moe), DType::f64);
  const TestBatch b(3);
  const Pass none(reference_kernels(), model, b, 0), one(reference_kernels(), model, b, 1),
      half(reference_kernels(), model, b, 0.5);
  const auto router = [](const Pass& p) { return at(p.gradients.dense.layers[2].router, 1, 3); };
  EXPECT_NE(router(none), router(one));
  EXPECT_NEAR(router(half), (router(none) + router(one)) / 2, 1e-12);
  EXPECT_EQ(one.cross_entropy, none.cross_entropy);  // what is reported as the loss holds no auxiliary part
}

// Sequences in another order: the same losses, gradients and statistics.
TEST(Mixture, OrderOfTheBatchDoesNotMatter) {
  for (const FfnVariant variant : kMixtures) {
    const Model model = random_model(small(variant), DType::f64);
    const TestBatch b(6);
    TestBatch turned = b;
    for (auto* values : {&turned.tokens, &turned.targets})
      std::rotate(values->begin(), values->begin() + 12, values->end());
    const Pass first(reference_kernels(), model, b), second(reference_kernels(), model, turned);
    EXPECT_NEAR(first.cross_entropy, second.cross_entropy, 1e-12);
    EXPECT_NEAR(first.a.router.auxiliary_loss(), second.a.router.auxiliary_loss(), 1e-12);
    EXPECT_NEAR(first.a.router.entropy, second.a.router.entropy, 1e-12);
    EXPECT_EQ(first.a.router.load_ratio, second.a.router.load_ratio);
    for (std::int64_t n = 0; n < 36; ++n)
      EXPECT_NEAR(at(first.loss, 0, (n + 12) % 36), at(second.loss, 0, n), 1e-12);
    const In x = first.gradients.dense.flat, y = second.gradients.dense.flat;
    for (std::int64_t i = 0; i < x.cols; ++i) ASSERT_NEAR(at(x, 0, i), at(y, 0, i), 1e-12);
  }
}

TEST(Mixture, TrainingRepeatsBitForBitAndBf16IsNear) {
  for (const FfnVariant variant : kMixtures) {
    const TestBatch b(20);
    const Model f32 = random_model(small(variant), DType::f32);
    const Pass a(cpu_kernels(), f32, b), again(cpu_kernels(), f32, b), oracle(reference_kernels(), f32, b);
    const In x = a.gradients.dense.flat, y = again.gradients.dense.flat, z = oracle.gradients.dense.flat;
    double worst = 0, largest = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) {
      ASSERT_EQ(at(x, 0, i), at(y, 0, i));
      worst = std::max(worst, std::abs(at(x, 0, i) - at(z, 0, i)));
      largest = std::max(largest, std::abs(at(z, 0, i)));
    }
    EXPECT_LT(worst, 1e-5 * largest);
    EXPECT_GT(a.a.router.seconds, 0.0);

    Model bf16(f32.config, {DType::f32, DType::bf16});
    init_weights(bf16, 5);
    Workspace memory;
    bf16.refresh_compute({&cpu_kernels(), &memory});
    EXPECT_NEAR(Pass(cpu_kernels(), bf16, b).cross_entropy, a.cross_entropy, 0.02);
  }
}

// In inference the bits of a sequence's hidden states do not depend on the rest of the batch.
TEST(Mixture, InferenceDoesNotDependOnTheCompany) {
  for (const FfnVariant variant : kMixtures) {
    const Model model = random_model(small(variant), DType::f32);
    Workspace workspace;
    const Context ctx{&cpu_kernels(), &workspace, true};
    const TestBatch all(9);
    const auto hidden = [&](const TokenBatch& batch, std::int64_t n) {
      const RowPlan rows(model.table, batch);
      Activations a = allocate_activations(ctx, model, n);
      forward_hidden(ctx, model, batch, rows, a);
      EXPECT_EQ(a.router.layers, 0);
      return a.normed_final;
    };
    const Out together = hidden(all.view(), 54);
    const Segment alone_segment{0, 6, 0, 6};
    for (std::int64_t s = 0; s < 9; ++s) {
      const auto part = [&](const std::vector<std::int32_t>& v) {
        return std::span<const std::int32_t>(v).subspan(static_cast<std::size_t>(6 * s), 6);
      };
      const Out alone = hidden({part(all.tokens), part(all.positions), {&alone_segment, 1}, {}}, 6);
      for (std::int64_t n = 0; n < 6; ++n) {
        for (std::int64_t k = 0; k < 16; ++k) ASSERT_EQ(at(alone, n, k), at(together, 6 * s + n, k));
      }
    }
  }
}

TEST(Mixture, StatisticsAreMeansOverLayersAndLargestLoads) {
  Model hashed = random_model(small(FfnVariant::hash_moe), DType::f64);
  const TestBatch b(5);
  const Pass pass(reference_kernels(), hashed, b);
  std::vector<double> load(4, 0.0);
  for (const std::int32_t t : b.tokens)
    ++load[static_cast<std::size_t>(hashed.hashed_expert[static_cast<std::size_t>(t)])];
  double entropy = 0;
  for (const double n : load) entropy -= n > 0 ? n / 30 * std::log(n / 30) : 0;
  EXPECT_EQ(pass.a.router.layers, 2);
  EXPECT_NEAR(pass.a.router.entropy, entropy, 1e-12);
  EXPECT_NEAR(pass.a.router.load_ratio, *std::max_element(load.begin(), load.end()) * 4 / 30, 1e-12);
  EXPECT_EQ(pass.a.router.auxiliary_loss(), 0.0);

  Model routed = random_model(small(FfnVariant::moe), DType::f64);
  for (const std::size_t l : {std::size_t{0}, std::size_t{2}}) {
    const Out router = routed.weights.layers[l].router;
    std::fill_n(router.row<double>(0), router.size(), 0.0);  // uniform: all positions take experts 0 and 1
  }
  const RouterStats uniform = Pass(reference_kernels(), routed, b).a.router;
  EXPECT_NEAR(uniform.entropy, std::log(4.0), 1e-12);
  EXPECT_NEAR(uniform.balance_loss, 2 * 0.01, 1e-12);
  EXPECT_NEAR(uniform.z_loss, 2 * 1e-3 * std::pow(std::log(4.0), 2), 1e-12);
  EXPECT_NEAR(uniform.load_ratio, 2.0, 1e-12);
}

}  // namespace
}  // namespace stem
