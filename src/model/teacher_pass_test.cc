// Gradients of what a student learns of its teacher: what it says, and its residual streams.
#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "model/forward.h"
#include "model/tiny_config.h"

namespace stem {
namespace {

class TeacherPassTest : public ::testing::Test {
 protected:
  TeacherPassTest()
      : model(tiny_config(FfnVariant::stem), kPrecision),
        teacher(tiny_config(FfnVariant::dense), kPrecision) {
    init_weights(model, 4);
    init_weights(teacher, 9);
  }

  // Σ 0.1·KL + weight · stream_loss.
  double run(Gradients& g, double stream_weight) {
    const Workspace::Scope scope(workspace);
    const TokenBatch batch{tokens, positions, {&segment, 1}, {}};
    const TeacherPass pass = ask_teacher(ctx, teacher, batch, RowPlan(teacher.table, batch), stream_weight);
    const RowPlan rows(model.table, batch);
    Activations a = allocate_activations(ctx, model, batch.size());
    forward_hidden(ctx, model, batch, rows, a);
    const Out loss = workspace.matrix(DType::f64, 1, batch.size());
    backward(ctx, model, batch, rows, groups, a, targets, weights, loss, g, pass);
    double sum = stream_weight * a.stream_loss;
    for (std::int64_t n = 0; n < batch.size(); ++n) sum += 0.1 * loss.row<double>(0)[n];
    return sum;
  }

  static constexpr Precision kPrecision{DType::f64, DType::f64};
  Workspace workspace;
  Context ctx{&reference_kernels(), &workspace, false};
  Model model, teacher;
  std::vector<std::int32_t> tokens{2, 5, 9, 5, 7, 11}, positions{0, 1, 2, 3, 4, 5},
      targets{-1, 9, 5, 7, 11, 3};
  std::vector<float> weights = std::vector<float>(6, 0.1f);
  Segment segment{0, 6, 0, 6};
  TokenGroups groups{tokens};
};

TEST_F(TeacherPassTest, GradientsAgreeWithCentralDifferences) {
  for (const double stream_weight : {0.0, 5.0}) {
    SCOPED_TRACE(stream_weight);
    Gradients g;
    prepare_gradients(ctx, model, groups, g);
    const double whole = run(g, stream_weight);
    const auto slope = [&](double& value) {
      constexpr double kStep = 1e-5;
      const double before = value;
      double loss[2];
      for (const int side : {0, 1}) {
        const Workspace::Scope scope(workspace);
        Gradients unused;
        prepare_gradients(ctx, model, groups, unused);
        value = before + (side == 0 ? -kStep : kStep);
        loss[side] = run(unused, stream_weight);
      }
      value = before;
      return (loss[1] - loss[0]) / (2 * kStep);
    };
    std::vector<Out> found;
    for_each_tensor(model.config, g.dense,
                    [&](const std::string&, const Out& m, TensorKind) { found.push_back(m); });
    std::size_t i = 0;
    for_each_tensor(model.config, model.weights, [&](const std::string& name, const Out& m, TensorKind) {
      const Out& d = found[i++];
      for (const std::int64_t at : {std::int64_t{1}, m.size() / 2, m.size() - 2})
        EXPECT_NEAR(static_cast<double*>(d.data)[at], slope(static_cast<double*>(m.data)[at]), 1e-7 * whole)
            << name;
    });
    double* const record = model.table.writable_records().row<double>(5);  // the second distinct token
    for (const std::int64_t at : {0, 50, 95})
      EXPECT_NEAR(g.rows.row<double>(1)[at], slope(record[at]), 1e-7 * whole);
  }
}

TEST_F(TeacherPassTest, StreamsOfTheSameModelAreMatched) {
  Gradients g;
  prepare_gradients(ctx, model, groups, g);
  const Workspace::Scope scope(workspace);
  const TokenBatch batch{tokens, positions, {&segment, 1}, {}};
  const RowPlan rows(model.table, batch);
  const TeacherPass pass = ask_teacher(ctx, model, batch, rows, 5.0);
  Activations a = allocate_activations(ctx, model, batch.size());
  forward_hidden(ctx, model, batch, rows, a);
  const Out loss = workspace.matrix(DType::f64, 1, batch.size());
  backward(ctx, model, batch, rows, groups, a, targets, weights, loss, g, pass);
  EXPECT_EQ(a.stream_loss, 0.0);
  for (std::int64_t n = 0; n < batch.size(); ++n) EXPECT_NEAR(loss.row<double>(0)[n], 0.0, 1e-14);
}

}  // namespace
}  // namespace stem
