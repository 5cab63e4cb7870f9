// Gradients where the state of the first position is a constant (Gradients::fixed_first).
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/reference/reference.h"
#include "model/forward.h"
#include "model/tiny_config.h"

namespace stem {
namespace {

class FirstPosition : public ::testing::Test {
 protected:
  FirstPosition() : model(tiny_config(FfnVariant::stem), {DType::f64, DType::f64}) {
    init_weights(model, 4);
    // Larger weights than a training starts from, so that the first position matters.
    for (LayerTensors& t : model.weights.layers) {
      for (const Out& m : {t.o, t.down}) {
        for (std::int64_t i = 0; i < m.size(); ++i) static_cast<double*>(m.data)[i] *= 6.0;
      }
    }
    cache = KvCache(model, std::ssize(tokens));
    loss_of({tokens.data(), 1}, 0);  // the cache's first row, of the weights as they are
  }

  // Of tokens [from, from + count) behind those in the cache; Σ 0.1·loss.
  double loss_of(std::span<const std::int32_t> ids, std::int64_t from) {
    const Workspace::Scope scope(workspace);
    const auto count = std::ssize(ids);
    const Segment segment{0, count, 0, from + count};
    const std::int32_t* const whole = tokens.data();
    const TokenBatch batch{ids,
                           std::span(positions).subspan(static_cast<std::size_t>(from), ids.size()),
                           {&segment, 1},
                           {&whole, 1}};
    Activations a = allocate_activations(inference, model, count);
    forward_hidden(inference, model, batch, RowPlan(model.table, batch), a, &cache);
    const Out loss = workspace.matrix(DType::f64, 1, count);
    forward_loss(inference, model, a, std::span(targets).subspan(static_cast<std::size_t>(from), ids.size()),
                 loss);
    double sum = 0;
    for (std::int64_t n = 0; n < count; ++n) sum += 0.1 * loss.row<double>(0)[n];
    return sum;
  }

  Gradients gradients(bool fixed_first) {
    const Segment segment{0, std::ssize(tokens), 0, std::ssize(tokens)};
    const TokenBatch batch{tokens, positions, {&segment, 1}, {}};
    const RowPlan rows(model.table, batch);
    Activations a = allocate_activations(training, model, batch.size());
    Gradients g;
    g.fixed_first = fixed_first;
    prepare_gradients(training, model, groups, g);
    forward_hidden(training, model, batch, rows, a);
    const Out loss = workspace.matrix(DType::f64, 1, batch.size());
    backward(training, model, batch, rows, groups, a, targets, std::vector<float>(tokens.size(), 0.1f), loss,
             g);
    return g;
  }

  Workspace workspace;
  Context training{&reference_kernels(), &workspace, false},
      inference{&reference_kernels(), &workspace, true};
  Model model;
  KvCache cache;
  std::vector<std::int32_t> tokens{2, 5, 9, 5, 7, 11}, positions{0, 1, 2, 3, 4, 5},
      targets{-1, 9, 5, 7, 11, 3};
  TokenGroups groups{tokens};
};

// The cache keeps keys and values of the first position as they were: so the loss moves where that state is
// held.
TEST_F(FirstPosition, HeldItIsAConstantOfTheLoss) {
  const Gradients g = gradients(true);
  const auto slope = [&](double& value) {
    constexpr double kStep = 1e-5;
    const double before = value;
    double loss[2];
    for (const int side : {0, 1}) {
      value = before + (side == 0 ? -kStep : kStep);
      loss[side] = loss_of(std::span(tokens).subspan(1), 1);
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
    if (name.find("embed_tokens") != std::string::npos) return;  // tied: token 2 is among the logits, too
    for (const char* const part : {"input_layernorm", "k_proj", "v_proj"})  // make the first position's keys
      if (name.find(part) != std::string::npos) return;                     // and values of its held state
    for (const std::int64_t at : {std::int64_t{1}, m.size() / 2, m.size() - 2})
      EXPECT_NEAR(static_cast<double*>(d.data)[at], slope(static_cast<double*>(m.data)[at]), 1e-7) << name;
  });
  const auto place = [&](std::int32_t token) {
    return std::lower_bound(groups.tokens().begin(), groups.tokens().end(), token) - groups.tokens().begin();
  };
  for (const std::int32_t token : {5, 11}) {
    double* const record = model.table.writable_records().row<double>(token);
    for (const std::int64_t at : {0, 50, 95})
      EXPECT_NEAR(g.rows.row<double>(place(token))[at], slope(record[at]), 1e-7) << token;
  }
  for (std::int64_t at = 0; at < g.rows.cols; ++at) EXPECT_EQ(g.rows.row<double>(place(2))[at], 0.0);
}

TEST_F(FirstPosition, NotHeldItsRowLearns) {
  const Gradients g = gradients(false);
  double sum = 0;
  for (std::int64_t at = 0; at < g.rows.cols; ++at) sum += std::abs(g.rows.row<double>(0)[at]);
  EXPECT_GT(sum, 1e-4);
}

}  // namespace
}  // namespace stem
