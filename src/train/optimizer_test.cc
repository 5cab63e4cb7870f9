#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/rng.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

namespace stem {
namespace {

ModelConfig small(bool tied = true) {
  ModelConfig c;
  c.vocab = 20;
  c.width = 8;
  c.layers = 2;
  c.heads = 2;
  c.kv_heads = 2;
  c.head_width = 4;
  c.ffn = 12;
  c.max_positions = 16;
  c.tied = tied;
  c.stem_layers = {1};
  return c;
}

// A model, its optimizer, and gradients drawn at random for the tokens of a batch.
struct Bench {
  Workspace workspace;
  Context context;
  Model model;
  Optimizer optimizer;
  Gradients gradients;
  Rng rng{17, 0};

  explicit Bench(const Kernels& kernels, bool tied = true, const std::string& freeze = "")
      : context{&kernels, &workspace, false},
        model(small(tied), {}),
        optimizer(model, TableOptimizer::lazy, Freeze(freeze, model.config)) {
    init_weights(model, 3);
  }
  void draw(const std::vector<std::int32_t>& tokens, double size = 0.01) {
    const TokenGroups groups(tokens);
    prepare_gradients(context, model, groups, gradients);
    for (const Out view : {gradients.dense.flat, gradients.rows, gradients.embedding}) {
      for (std::int64_t i = 0; view && i < view.size(); ++i)
        view.row<float>(0)[i] = static_cast<float>(size * rng.normal());
    }
  }
  StepNorms update(const std::vector<std::int32_t>& tokens, std::int64_t step, const GroupOptions& dense,
                   const GroupOptions& rows) {
    const TokenGroups groups(tokens);
    const StepNorms norms = optimizer.norms(context, model, gradients);
    optimizer.update(context, model, gradients, groups.tokens(), norms, dense, rows);
    EXPECT_EQ(optimizer.updates(), step);
    return norms;
  }
};

std::vector<float> copy_of(In view) {
  const float* data = view.row<float>(0);
  return {data, data + view.size()};
}

class OptimizerOn : public testing::TestWithParam<const char*> {
 protected:
  const Kernels& kernels() const {
    return std::string(GetParam()) == "cpu" ? cpu_kernels() : reference_kernels();
  }
};

// The first step's bias-corrected moments are g and g², so a weight moves by lr·g/(|g| + ε): nearly
// lr·sign(g).
TEST_P(OptimizerOn, TheFirstStepIsTheSignOfTheGradient) {
  Bench b(kernels());
  b.draw({3, 7});
  const auto before = copy_of(b.model.weights.layers[0].o);
  const auto rows_before = copy_of(b.model.table.records());
  const Out grad = b.gradients.dense.layers[0].o;
  b.update({3, 7}, 1, {0.01f, 0.0f, 0.0f}, {0.02f, 0.0f, 0.0f});
  const auto after = copy_of(b.model.weights.layers[0].o);
  for (std::size_t i = 0; i < after.size(); ++i) {
    const float g = grad.row<float>(0)[i];
    EXPECT_NEAR(after[i] - before[i], g > 0 ? -0.01f : 0.01f, 2e-5f);
  }
  const auto rows_after = copy_of(b.model.table.records());
  for (std::size_t i = 0; i < 12; ++i) {
    const float g = b.gradients.rows.row<float>(1)[i];  // token 7
    EXPECT_NEAR(rows_after[7 * 12 + i] - rows_before[7 * 12 + i], g > 0 ? -0.02f : 0.02f, 4e-5f);
  }
}

TEST_P(OptimizerOn, ManyStepsAgreeWithTheFormulaInF64) {
  Bench b(kernels());
  const std::vector<std::int32_t> tokens{3, 7};
  const GroupOptions dense{0.01f, 0.1f, 1.0f}, rows{0.02f, 0.0f, 0.5f};
  struct Weight {
    double w, m = 0, v = 0;
    void step(double g, double lr, double decay, int t) {
      m = 0.9 * m + 0.1 * g;
      v = 0.95 * v + 0.05 * g * g;
      const double mh = m / (1 - std::pow(0.9, t)), vh = v / (1 - std::pow(0.95, t));
      w = w * (1 - lr * decay) - lr * mh / (std::sqrt(vh) + 1e-8);
    }
  };
  const auto at = [](In view, std::int64_t i) { return static_cast<double>(view.row<float>(0)[i]); };
  Weight matrix{at(b.model.weights.layers[1].down, 5)}, norm{1.0};
  Weight row{at(b.model.table.records(), 3 * 12 + 4)};
  for (int t = 1; t <= 20; ++t) {
    b.draw(tokens, 0.2);  // large enough that both groups are clipped
    double dense_norm = 0, row_norm = 0;
    for (std::int64_t i = 0; i < b.gradients.dense.flat.size(); ++i)
      dense_norm += std::pow(at(b.gradients.dense.flat, i), 2);
    for (std::int64_t i = 0; i < b.gradients.rows.size(); ++i)
      row_norm += std::pow(at(b.gradients.rows, i), 2);
    dense_norm = std::sqrt(dense_norm);
    row_norm = std::sqrt(row_norm);
    ASSERT_GT(dense_norm, 1.0);
    ASSERT_GT(row_norm, 0.5);
    matrix.step(at(b.gradients.dense.layers[1].down, 5) / dense_norm, 0.01, 0.1, t);
    norm.step(at(b.gradients.dense.final_norm, 2) / dense_norm, 0.01, 0.0, t);  // norms never decay
    row.step(at(b.gradients.rows, 4) * 0.5 / row_norm, 0.02, 0.0, t);
    const StepNorms norms = b.update(tokens, t, dense, rows);
    EXPECT_NEAR(norms.dense, dense_norm, 1e-5 * dense_norm);
    EXPECT_NEAR(norms.table, row_norm, 1e-5 * row_norm);
  }
  EXPECT_NEAR(at(b.model.weights.layers[1].down, 5), matrix.w, 2e-6);
  EXPECT_NEAR(at(b.model.weights.final_norm, 2), norm.w, 2e-6);
  EXPECT_NEAR(at(b.model.table.records(), 3 * 12 + 4), row.w, 2e-6);
}

TEST_P(OptimizerOn, RowsOutsideTheBatchNeverMove) {
  Bench b(kernels(), false);
  const auto table = copy_of(b.model.table.records()), embedding = copy_of(b.model.embedding.view);
  const GroupOptions decays{0.01f, 0.5f, 1.0f};  // decay would move every row of a dense optimizer
  for (int t = 1; t <= 5; ++t) {
    b.draw({3, 7, 3});
    b.update({3, 7, 3}, t, decays, decays);
  }
  const auto expect_moved = [&](const std::vector<float>& before, In now, std::size_t cols) {
    for (std::size_t token = 0; token < 20; ++token) {
      const bool same = std::memcmp(now.row<float>(static_cast<std::int64_t>(token)),
                                    before.data() + token * cols, cols * sizeof(float)) == 0;
      EXPECT_EQ(same, token != 3 && token != 7) << "token " << token;
    }
  };
  expect_moved(table, b.model.table.records(), 12);
  expect_moved(embedding, b.model.embedding.view, 8);
  EXPECT_EQ(b.optimizer.table.last_step[7], 5);
  EXPECT_EQ(b.optimizer.table.last_step[8], 0);
  EXPECT_EQ(b.optimizer.embedding.last_step[3], 5);
}

TEST_P(OptimizerOn, MomentsOfARowWaitWhileItsTokenIsAway) {
  Bench b(kernels());
  b.draw({3});
  b.update({3}, 1, {}, {});
  const auto m = copy_of(In(b.optimizer.table.m.view).slice_rows(3, 1));
  b.draw({4});
  b.update({4}, 2, {}, {});
  EXPECT_EQ(copy_of(In(b.optimizer.table.m.view).slice_rows(3, 1)), m);
  EXPECT_EQ(b.optimizer.table.last_step[3], 1);
  EXPECT_EQ(b.optimizer.table.last_step[4], 2);
}

TEST_P(OptimizerOn, FrozenTensorsNeverMoveAndDoNotCount) {
  const GroupOptions decays{0.01f, 0.5f, 1.0f};
  Bench b(kernels(), false, "model.layers.0.*, embed*,tables");
  EXPECT_FALSE(b.optimizer.table.present());  // no memory for moments that nobody needs
  const auto table = copy_of(b.model.table.records()), embedding = copy_of(b.model.embedding.view);
  const auto frozen = copy_of(b.model.weights.layers[0].down),
             other = copy_of(b.model.weights.layers[1].down);
  b.draw({3, 7});
  b.gradients.rows = b.gradients.embedding = {};
  const double all = b.update({3, 7}, 1, decays, decays).dense;
  EXPECT_EQ(copy_of(b.model.table.records()), table);
  EXPECT_EQ(copy_of(b.model.embedding.view), embedding);
  EXPECT_EQ(copy_of(b.model.weights.layers[0].down), frozen);
  EXPECT_NE(copy_of(b.model.weights.layers[1].down), other);
  for (const float m : copy_of(b.optimizer.m.layers[0].down)) EXPECT_EQ(m, 0.0f);
  // Padding of the flat buffer was drawn, too: the norm is that of the tensors that train.
  double squared = 0;
  for_each_tensor(b.model.config, b.gradients.dense, [&](const std::string& name, Out view, TensorKind) {
    if (!name.starts_with("model.layers.0.")) squared += b.context.kernels->optimizer.squared_norm(view);
  });
  EXPECT_NEAR(all, std::sqrt(squared), 1e-6 * all);
}

INSTANTIATE_TEST_SUITE_P(Backends, OptimizerOn, testing::Values("reference", "cpu"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Freeze, PatternsNameTensors) {
  const Model model(small(false), {}), tied(small(true), {});
  const auto count = [](const Freeze& f) { return std::count(f.dense.begin(), f.dense.end(), true); };
  const Freeze none("", model.config);
  EXPECT_FALSE(none.table || none.embedding || none.any_dense());
  const Freeze tables("tables", model.config);
  EXPECT_TRUE(tables.table);
  EXPECT_FALSE(tables.embedding || tables.any_dense());
  const Freeze dense("dense", model.config);
  EXPECT_FALSE(dense.table);
  EXPECT_TRUE(dense.embedding);
  EXPECT_EQ(count(dense), static_cast<std::ptrdiff_t>(dense.dense.size()));
  EXPECT_EQ(count(Freeze("q_proj.weight", model.config)), 2);
  EXPECT_EQ(count(Freeze("embed*", model.config)), 0);
  EXPECT_TRUE(Freeze("embed*", model.config).embedding);
  EXPECT_EQ(count(Freeze("embed*", tied.config)), 1);  // the head is the embedding
  EXPECT_TRUE(Freeze("stem.*", model.config).table);
  const auto verdict = [&](const char* patterns) -> std::string {
    try {
      Freeze(patterns, model.config);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(verdict("tables,layers.7.*"),
            "train.freeze: expected tables, dense, or a glob over tensor names, found \"layers.7.*\", which "
            "matches none of this model's");
  EXPECT_EQ(verdict("dense,tables"), "train.freeze: \"dense,tables\" leaves nothing to train");
}

TEST(LearningRate, WarmsUpLinearlyThenFallsAsACosineToTheFloor) {
  const auto at = [](std::int64_t step) { return learning_rate(2.0, step, 10, 110); };
  EXPECT_DOUBLE_EQ(at(1), 0.2);
  EXPECT_DOUBLE_EQ(at(5), 1.0);
  EXPECT_DOUBLE_EQ(at(10), 2.0);
  EXPECT_DOUBLE_EQ(at(60), 2.0 * (0.1 + 0.9 * 0.5));
  EXPECT_NEAR(at(110), 0.2, 1e-12);
  EXPECT_NEAR(at(1000), 0.2, 1e-12);  // beyond the end
  for (std::int64_t step = 10; step < 110; ++step) EXPECT_GT(at(step), at(step + 1));
  EXPECT_DOUBLE_EQ(learning_rate(2.0, 1, 0, 1, 0.5), 1.0);  // no warm-up, the only step is the last
}

}  // namespace
}  // namespace stem
