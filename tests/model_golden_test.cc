// The whole model against PyTorch: logits, every gradient, ten training losses (tests/golden/model, written
// by tools/make_model_goldens.py), on both backends, and numeric gradients of the whole model in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/rng.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "model/forward.h"
#include "train/optimizer.h"

namespace stem {
namespace {

constexpr double kTolerance = 1e-4;  // ‖a − b‖∞ / ‖b‖∞ per tensor, f32

struct Golden {
  Safetensors file;
  ModelConfig config;
  std::vector<std::int32_t> tokens, positions, targets;
  std::vector<Segment> segments;

  explicit Golden(const std::string& name)
      : file(Safetensors::open(std::string(STEM_SOURCE_DIR) + "/tests/golden/model/" + name +
                               ".safetensors")) {
    Json json = parse_json(file.metadata().at("config"), name);
    json["model_type"] = "stem";
    config = config_from_json(json, name);
    tokens = ints("tokens");
    positions = ints("positions");
    targets = ints("targets");
    const auto pairs = ints("segments");
    for (std::size_t i = 0; i < pairs.size(); i += 2)
      segments.push_back({pairs[i], pairs[i + 1], pairs[i], pairs[i + 1]});
  }
  std::vector<std::int32_t> ints(const char* name) const {
    const TensorInfo& info = file.info(name);
    EXPECT_EQ(info.type, "I32");
    std::vector<std::int32_t> values(static_cast<std::size_t>(info.elements()));
    std::memcpy(values.data(), file.data(info), info.bytes);
    return values;
  }
  TokenBatch batch() const { return {tokens, positions, segments, {}}; }
  std::vector<float> weights() const {
    std::int64_t counted = 0;
    for (const auto t : targets) counted += t >= 0;
    return std::vector<float>(targets.size(), 1.0f / static_cast<float>(counted));
  }
};

double get(In view, std::int64_t r, std::int64_t c) {
  return view.dtype == DType::f64 ? view.row<double>(r)[c] : static_cast<double>(view.row<float>(r)[c]);
}
void set(Out view, std::int64_t r, std::int64_t c, double value) {
  if (view.dtype == DType::f64)
    view.row<double>(r)[c] = value;
  else
    view.row<float>(r)[c] = static_cast<float>(value);
}

Model load(const Golden& g, DType dtype) {
  Model model(g.config, {dtype, dtype});
  const auto copy = [&](const std::string& name, Out view) {
    const TensorInfo& info = g.file.info(name);
    ASSERT_EQ(info.elements(), view.size()) << name;
    const auto* from = static_cast<const float*>(g.file.data(info));
    for (std::int64_t i = 0; i < view.size(); ++i)
      set(view, i / view.cols, i % view.cols, static_cast<double>(from[i]));
  };
  for_each_tensor(g.config, model.weights,
                  [&](const std::string& name, Out view, TensorKind) { copy(name, view); });
  if (!g.config.tied) copy("model.embed_tokens.weight", model.embedding);
  if (model.table.present()) copy("stem.table", model.table.writable_records());
  return model;
}

void expect_close(const std::string& what, In found, const float* expected) {
  double worst = 0, largest = 0;
  for (std::int64_t i = 0; i < found.size(); ++i) {
    const auto e = static_cast<double>(expected[i]);
    worst = std::max(worst, std::abs(get(found, i / found.cols, i % found.cols) - e));
    largest = std::max(largest, std::abs(e));
  }
  EXPECT_LE(worst, kTolerance * largest) << what;
}

struct Pass {
  Workspace workspace;
  Context context;
  Gradients gradients;
  double loss = 0, auxiliary = 0;

  explicit Pass(const Kernels& kernels) : context{&kernels, &workspace, false} {}

  // Forward and backward; the mean loss.
  void run(const Golden& g, const Model& model, const TokenGroups& groups,
           std::vector<float>* logits = nullptr) {
    const TokenBatch batch = g.batch();
    const RowPlan rows(model.table, batch);
    const auto weights = g.weights();
    Activations a = allocate_activations(context, model, batch.size());
    prepare_gradients(context, model, groups, gradients);
    forward_hidden(context, model, batch, rows, a);
    if (logits != nullptr) {
      std::vector<std::int64_t> all(g.tokens.size());
      for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
      logits->resize(all.size() * static_cast<std::size_t>(g.config.vocab));
      forward_logits(context, model, a, all, matrix(logits->data(), batch.size(), g.config.vocab));
    }
    const Out per_token = workspace.matrix(model.precision.wide, 1, batch.size());
    backward(context, model, batch, rows, groups, a, g.targets, weights, per_token, gradients);
    loss = 0;
    for (std::int64_t i = 0; i < batch.size(); ++i)
      loss += get(per_token, 0, i) * static_cast<double>(weights[static_cast<std::size_t>(i)]);
    auxiliary = a.router.auxiliary_loss();
  }
};

struct Case {
  const char* golden;
  const char* backend;
};

class ModelGolden : public testing::TestWithParam<Case> {
 protected:
  const Kernels& kernels() const {
    return std::string(GetParam().backend) == "cpu" ? cpu_kernels() : reference_kernels();
  }
};

TEST_P(ModelGolden, LogitsLossAndEveryGradient) {
  const Golden g(GetParam().golden);
  const Model model = load(g, DType::f32);
  const TokenGroups groups(g.tokens);
  Pass pass(kernels());
  Workspace::Scope scope(pass.workspace);
  std::vector<float> logits;
  pass.run(g, model, groups, &logits);
  const auto tensor = [&](const std::string& name) { return static_cast<const float*>(g.file.data(name)); };
  expect_close("logits",
               matrix(static_cast<const float*>(logits.data()), static_cast<std::int64_t>(g.tokens.size()),
                      g.config.vocab),
               tensor("logits"));
  EXPECT_NEAR(pass.loss, static_cast<double>(tensor("loss")[0]), 1e-5);
  const bool routed = g.config.variant == FfnVariant::moe;
  EXPECT_NEAR(pass.auxiliary, routed ? static_cast<double>(tensor("auxiliary")[0]) : 0.0, 1e-6);

  int compared = 0;
  for_each_tensor(g.config, pass.gradients.dense, [&](const std::string& name, Out view, TensorKind) {
    expect_close("grad." + name, view, tensor("grad." + name));
    ++compared;
  });
  EXPECT_GE(compared, 30);
  // Row-sparse gradients against PyTorch's dense ones: rows of tokens outside the batch must be zero there.
  const auto expect_rows = [&](const std::string& name, In rows) {
    std::vector<float> dense(static_cast<std::size_t>(g.config.vocab * rows.cols), 0.0f);
    for (std::int64_t r = 0; r < rows.rows; ++r) {
      std::memcpy(dense.data() + groups.tokens()[static_cast<std::size_t>(r)] * rows.cols, rows.row<float>(r),
                  static_cast<std::size_t>(rows.cols) * sizeof(float));
    }
    expect_close(name, matrix(static_cast<const float*>(dense.data()), g.config.vocab, rows.cols),
                 tensor(name));
  };
  if (pass.gradients.rows) expect_rows("grad.stem.table", pass.gradients.rows);
  if (!g.config.tied) expect_rows("grad.model.embed_tokens.weight", pass.gradients.embedding);
}

TEST_P(ModelGolden, TenTrainingLosses) {
  const Golden g(GetParam().golden);
  Model model = load(g, DType::f32);
  Optimizer optimizer(model);
  const TokenGroups groups(g.tokens);
  Pass pass(kernels());
  const auto* expected = static_cast<const float*>(g.file.data("losses"));
  for (std::int64_t step = 1; step <= 10; ++step) {
    Workspace::Scope scope(pass.workspace);
    pass.run(g, model, groups);
    EXPECT_NEAR(pass.loss, static_cast<double>(expected[step - 1]),
                kTolerance * static_cast<double>(expected[0]))
        << "step " << step;
    const StepNorms norms = optimizer.norms(pass.context, model, pass.gradients);
    optimizer.update(pass.context, model, pass.gradients, groups.tokens(), norms, {1e-2f, 0.1f, 1.0f},
                     {1e-2f, 0.0f, 1.0f});
  }
}

constexpr Case kCases[] = {{"dense_tied", "reference"},
                           {"stem_untied", "reference"},
                           {"stem_full_tied", "reference"},
                           {"stem_gate_untied", "reference"},
                           {"stem_additive_tied", "reference"},
                           {"hash_moe_tied", "reference"},
                           {"moe_untied", "reference"},
                           {"qwen2_tied", "reference"},
                           {"qwen3_untied", "reference"},
                           {"dense_tied", "cpu"},
                           {"stem_untied", "cpu"},
                           {"stem_full_tied", "cpu"},
                           {"stem_gate_untied", "cpu"},
                           {"stem_additive_tied", "cpu"},
                           {"hash_moe_tied", "cpu"},
                           {"moe_untied", "cpu"},
                           {"qwen2_tied", "cpu"},
                           {"qwen3_untied", "cpu"}};
INSTANTIATE_TEST_SUITE_P(PyTorch, ModelGolden, testing::ValuesIn(kCases), [](const auto& test) {
  return std::string(test.param.golden) + "_" + test.param.backend;
});

// Numeric gradients of the whole model in f64: central differences of sampled elements of every tensor.
class ModelGradient : public testing::TestWithParam<const char*> {};

TEST_P(ModelGradient, AgreesWithCentralDifferences) {
  const Golden g(GetParam());
  Model model = load(g, DType::f64);
  const TokenGroups groups(g.tokens);
  Pass pass(reference_kernels());
  Workspace::Scope scope(pass.workspace);
  pass.run(g, model, groups);

  const auto loss_at = [&](Out view, std::int64_t r, std::int64_t c, double value) {
    const double before = get(view, r, c);
    set(view, r, c, value);
    Pass other(reference_kernels());
    Workspace::Scope inner(other.workspace);
    other.run(g, model, groups);
    set(view, r, c, before);
    return other.loss + other.auxiliary;
  };
  Rng rng(7, 7);
  const auto check = [&](const std::string& name, Out view, std::int64_t r, std::int64_t c, double analytic) {
    const double x = get(view, r, c), h = 1e-5;
    const double numeric = (loss_at(view, r, c, x + h) - loss_at(view, r, c, x - h)) / (2 * h);
    EXPECT_NEAR(analytic, numeric, 1e-8 + 1e-6 * std::abs(numeric)) << name << " [" << r << ", " << c << "]";
  };
  std::vector<std::pair<std::string, Out>> tensors;
  for_each_tensor(g.config, model.weights,
                  [&](const std::string& name, Out view, TensorKind) { tensors.emplace_back(name, view); });
  std::size_t i = 0;
  for_each_tensor(g.config, pass.gradients.dense, [&](const std::string& name, Out grad, TensorKind) {
    const auto r = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(grad.rows)));
    const auto c = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(grad.cols)));
    check(name, tensors[i++].second, r, c, get(grad, r, c));
  });
  for (int sample = 0; sample < 6 && pass.gradients.rows; ++sample) {
    const auto r = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(groups.distinct())));
    const auto c = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(pass.gradients.rows.cols)));
    check("stem.table", model.table.writable_records(), groups.tokens()[static_cast<std::size_t>(r)], c,
          get(pass.gradients.rows, r, c));
  }
}

INSTANTIATE_TEST_SUITE_P(F64, ModelGradient,
                         testing::Values("dense_tied", "stem_untied", "stem_full_tied", "stem_gate_untied",
                                         "stem_additive_tied", "hash_moe_tied", "moe_untied", "qwen2_tied",
                                         "qwen3_untied"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace stem
