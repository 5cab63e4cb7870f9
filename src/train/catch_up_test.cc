// Mode `exact` against dense AdamW over the whole table.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "core/rng.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "train/optimizer.h"

namespace stem {
namespace {

constexpr std::int64_t kVocab = 200, kSteps = 500;

ModelConfig small() {
  ModelConfig c;
  c.vocab = kVocab;
  c.width = 8;
  c.layers = 2;
  c.heads = 2;
  c.kv_heads = 2;
  c.head_width = 4;
  c.ffn = 20;  // one whole vector and a part of one
  c.max_positions = 16;
  c.tied = false;
  c.stem_layers = {1};
  return c;
}

double get(In view, std::int64_t r, std::int64_t c) {
  return view.dtype == DType::f64 ? view.row<double>(r)[c] : static_cast<double>(view.row<float>(r)[c]);
}
void put(Out view, std::int64_t r, std::int64_t c, double value) {
  if (view.dtype == DType::f64)
    view.row<double>(r)[c] = value;
  else
    view.row<float>(r)[c] = static_cast<float>(value);
}

// Ids by Zipf's law: many tokens are away for hundreds of steps, some for all.
std::vector<std::int32_t> zipf_batch(Rng& rng) {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 5; ++i)
    tokens.push_back(static_cast<std::int32_t>(std::pow(static_cast<double>(kVocab), rng.uniform())) - 1);
  return tokens;
}

// Dense AdamW over one matrix: every row has a gradient, most of them zero.
struct DenseRows {
  Tensor w, m, v, g;

  explicit DenseRows(In start)
      : w(start.dtype, start.rows, start.cols),
        m(w.view.dtype, start.rows, start.cols),
        v(w.view.dtype, start.rows, start.cols),
        g(w.view.dtype, start.rows, start.cols) {
    std::memcpy(w.view.data, start.data, static_cast<std::size_t>(start.size() * size_of(start.dtype)));
  }
  void update(const Kernels& kernels, const GroupOptions& group, std::int64_t t, double norm) {
    AdamW a;
    a.lr = group.lr;
    a.decay = group.decay;
    a.step = t;
    a.grad_scale = norm > static_cast<double>(group.clip) ? static_cast<float>(group.clip / norm) : 1.0f;
    const auto flat = [](const Tensor& x) {
      return Out{x.view.data, x.view.dtype, 1, x.view.size(), x.view.size()};
    };
    kernels.optimizer.adamw(flat(w), flat(m), flat(v), flat(g), {}, a);
  }
};

struct TwoRuns {
  Workspace workspace;
  Context context;
  Model model;
  Optimizer exact;
  Gradients gradients;
  DenseRows table, embedding;
  Rng rng{11, 0};

  TwoRuns(const Kernels& kernels, DType dtype)
      : context{&kernels, &workspace, false},
        model(initial(dtype)),
        exact(model, TableOptimizer::exact),
        table(model.table.records()),
        embedding(model.embedding) {}

  static Model initial(DType dtype) {
    Model model(small(), {dtype, dtype});
    init_weights(model, 3);
    return model;
  }

  void step(std::int64_t t, const GroupOptions& dense, const GroupOptions& rows) {
    Workspace::Scope scope(workspace);
    const TokenGroups groups(zipf_batch(rng));
    exact.catch_up(context, model, groups.tokens());
    prepare_gradients(context, model, groups, gradients);
    // A gradient that depends on what is read: a record that was behind would show.
    const auto fill = [&](Out sparse, DenseRows& whole, In read) {
      whole.g.buffer.clear();
      for (std::int64_t r = 0; r < sparse.rows; ++r) {
        const std::int64_t token = groups.tokens()[static_cast<std::size_t>(r)];
        for (std::int64_t c = 0; c < sparse.cols; ++c) {
          const double noise = 0.05 * rng.normal();
          put(sparse, r, c, noise + 0.2 * get(read, token, c));
          put(whole.g, token, c, noise + 0.2 * get(whole.w, token, c));
        }
      }
    };
    fill(gradients.rows, table, model.table.records());
    fill(gradients.embedding, embedding, model.embedding);
    const StepNorms norms = exact.norms(context, model, gradients);
    clipped += norms.table > static_cast<double>(rows.clip);
    exact.update(context, model, gradients, groups.tokens(), norms, dense, rows);
    table.update(*context.kernels, rows, t, norms.table);
    embedding.update(*context.kernels, dense, t, norms.dense);
  }
  std::int64_t clipped = 0;
};

// ‖a − b‖ / ‖b‖ of each row, the largest.
double largest_difference(In a, In b) {
  double largest = 0;
  for (std::int64_t r = 0; r < b.rows; ++r) {
    double difference = 0, size = 0;
    for (std::int64_t c = 0; c < b.cols; ++c) {
      difference += std::pow(get(a, r, c) - get(b, r, c), 2);
      size += std::pow(get(b, r, c), 2);
    }
    largest = std::max(largest, std::sqrt(difference / size));
  }
  return largest;
}

Tensor current(const TwoRuns& run, In weights, const RowState& state) {
  Tensor all(weights.dtype, weights.rows, weights.cols);
  visit_current(run.context, weights, state, [&](std::int64_t first, In rows) {
    std::memcpy(all.view.slice_rows(first, 1).data, rows.data,
                static_cast<std::size_t>(rows.size() * size_of(rows.dtype)));
  });
  return all;
}

class ExactOn : public testing::TestWithParam<const char*> {
 protected:
  bool is_cpu() const { return std::string(GetParam()) == "cpu"; }
  const Kernels& kernels() const { return is_cpu() ? cpu_kernels() : reference_kernels(); }
  DType dtype() const { return is_cpu() ? DType::f32 : DType::f64; }
};

TEST_P(ExactOn, IsDenseAdamW) {
  TwoRuns run(kernels(), dtype());
  for (std::int64_t t = 1; t <= kSteps; ++t) {
    const auto lr = [&](double peak) { return static_cast<float>(learning_rate(peak, t, 30, kSteps)); };
    run.step(t, {lr(3e-3), 0.1f, 1.0f}, {lr(1e-2), 0.02f, 0.5f});
  }
  EXPECT_GT(run.clipped, kSteps / 10);
  EXPECT_LT(run.clipped, kSteps);
  const std::vector<std::int64_t>& last = run.exact.table.last_step;
  EXPECT_GT(std::count_if(last.begin(), last.end(), [](auto t) { return t < kSteps - 200; }), 20);
  const Tensor table = current(run, run.model.table.records(), run.exact.table);
  const Tensor embedding = current(run, run.model.embedding, run.exact.embedding);
  EXPECT_GT(largest_difference(run.model.table.records(), run.table.w), 1e-3);  // raw records lag behind
  const double bar = is_cpu() ? 1e-5 : 1e-12;
  EXPECT_LE(largest_difference(table, run.table.w), bar);
  EXPECT_LE(largest_difference(embedding, run.embedding.w), bar);
}

TEST_P(ExactOn, LookingLeavesTheRawStateAlone) {
  TwoRuns run(kernels(), dtype());
  for (std::int64_t t = 1; t <= 60; ++t) run.step(t, {1e-3f, 0.1f, 1.0f}, {1e-2f, 0.1f, 1.0f});
  const auto bytes = [](In view) {
    return std::string(static_cast<const char*>(view.data),
                       static_cast<std::size_t>(view.size() * size_of(view.dtype)));
  };
  const std::string raw = bytes(run.model.table.records()), m = bytes(run.exact.table.m.view);
  const auto last = run.exact.table.last_step;
  const Tensor now = current(run, run.model.table.records(), run.exact.table);
  std::vector<std::int32_t> tokens;
  for (std::int32_t t = 1; t < kVocab; t += 2) tokens.push_back(t);
  {
    const Current looking(run.context, run.model, run.exact, tokens);
    for (const std::int32_t t : tokens)
      EXPECT_EQ(bytes(run.model.table.records().slice_rows(t, 1)), bytes(In(now.view).slice_rows(t, 1)));
    EXPECT_NE(bytes(run.model.table.records()), raw);
  }
  EXPECT_EQ(bytes(run.model.table.records()), raw);
  EXPECT_EQ(bytes(run.exact.table.m.view), m);
  EXPECT_EQ(run.exact.table.last_step, last);
  // Catching up in place gives the rows that were shown.
  run.exact.catch_up(run.context, run.model, tokens);
  for (const std::int32_t t : tokens)
    EXPECT_EQ(bytes(run.model.table.records().slice_rows(t, 1)), bytes(In(now.view).slice_rows(t, 1)));
}

INSTANTIATE_TEST_SUITE_P(Backends, ExactOn, testing::Values("reference", "cpu"),
                         [](const auto& test) { return std::string(test.param); });

// The shortcut behind the last step that moves a weight, against every step replayed in f64.
TEST(CatchUp, LongGapsAgreeWithTheOracle) {
  UpdateHistory history;
  for (std::int64_t t = 1; t <= 3000; ++t)
    history.append({static_cast<float>(learning_rate(2e-3, t, 100, 3000)), 0.1f, 1.0f});
  constexpr std::int64_t kRows = 6, kCols = 37;
  const std::vector<std::int32_t> ids{4, 1, 0, 5, 2};
  const std::vector<std::int64_t> from{0, 1, 700, 2990, 3000};
  Rng rng(5, 0);
  std::map<std::string, Tensor> fast, slow;
  for (const char* name : {"w", "m", "v"}) {
    fast[name] = Tensor(DType::f32, kRows, kCols);
    slow[name] = Tensor(DType::f64, kRows, kCols);
  }
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < kCols; ++c) {
      // Gradients from far below epsilon to far above it, and a few records that never had one.
      const double g = r == 4 ? 0.0 : std::pow(10.0, -10.0 + 9.0 * rng.uniform());
      for (auto* to : {&fast, &slow}) {
        put((*to)["w"], r, c,
            static_cast<double>(
                static_cast<float>(0.02 * rng.normal_at(static_cast<std::uint64_t>(r * kCols + c)))));
        put((*to)["m"], r, c, static_cast<double>(static_cast<float>(0.1 * g)));
        put((*to)["v"], r, c, static_cast<double>(static_cast<float>(0.05 * g * g)));
      }
    }
  }
  cpu_kernels().optimizer.adamw_catch_up(fast["w"], fast["m"], fast["v"], ids, from, history.view());
  reference_kernels().optimizer.adamw_catch_up(slow["w"], slow["m"], slow["v"], ids, from, history.view());
  EXPECT_LE(largest_difference(fast["w"], slow["w"]), 3e-6);
  for (std::int64_t c = 0; c < kCols; ++c) {
    EXPECT_NEAR(get(fast["m"], 5, c), get(slow["m"], 5, c), 1e-5 * get(slow["m"], 5, c));
    EXPECT_NEAR(get(fast["v"], 5, c), get(slow["v"], 5, c), 1e-5 * get(slow["v"], 5, c) + 1e-37);
    EXPECT_EQ(get(fast["w"], 3, c), get(slow["w"], 3, c));  // not among the ids
  }
}

TEST(UpdateHistory, IsRestoredFromItsLearningRates) {
  UpdateHistory a, b;
  for (int t = 1; t <= 50; ++t) a.append({1e-3f * static_cast<float>(t), 0.1f, 1.0f});
  b.restore(a.lr(), 0.1f);
  const AdamWHistory x = a.view(), y = b.view();
  ASSERT_EQ(x.updates(), y.updates());
  for (std::size_t i = 0; i < x.rate.size(); ++i) {
    EXPECT_EQ(x.rate[i], y.rate[i]);
    EXPECT_EQ(x.inv_c2[i], y.inv_c2[i]);
    EXPECT_EQ(x.log_keep[i], y.log_keep[i]);
  }
  EXPECT_EQ(x.top_rate, y.top_rate);
}

}  // namespace
}  // namespace stem
