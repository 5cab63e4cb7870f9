#include "ops/glu.h"

#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f64 = DType::f64;
constexpr std::int64_t kTokens = 7, kWidth = 5;
constexpr std::int32_t kNullToken = 4;
constexpr float kScale = 0.75f;

double silu(double a) {
  return a / (1.0 + std::exp(-a));
}

class GluTest : public ::testing::Test {
 protected:
  Rng rng{5, 1};
  Context ctx{.kernels = &reference_kernels()};
  Tensor gate = random_tensor(f64, kTokens, kWidth, rng), up = random_tensor(f64, kTokens, kWidth, rng);
  Tensor d_h = random_tensor(f64, kTokens, kWidth, rng), h{f64, kTokens, kWidth};
  // Token 2 three times, token 4 (without a row) twice, 1 and 0 once, 3 and 5 never; rows carry a scale.
  TokenRows rows{{2, 4, 1, 2, 0, 4, 2}, 6, kWidth, f64, f64, rng, kNullToken, kScale};
  Tensor d_gate = random_tensor(f64, kTokens, kWidth, rng), d_up = random_tensor(f64, kTokens, kWidth, rng);

  double row(std::int64_t n, std::int64_t f) const {
    const std::int32_t t = rows.tokens[static_cast<std::size_t>(n)];
    return t == kNullToken ? 0.0 : static_cast<double>(kScale) * get(rows.table, t, f);
  }

  /// Gradient with respect to the stored table [V, F]: of a row u = scale·stored, scale·d_u; none for null
  /// rows.
  Tensor d_table() const {
    Tensor d(f64, rows.table.view.rows, kWidth);
    for (std::size_t r = 0; r < rows.distinct.size(); ++r) {
      if (rows.distinct[r] == kNullToken) continue;
      for (std::int64_t f = 0; f < kWidth; ++f) {
        set(d.view, rows.distinct[r], f,
            static_cast<double>(kScale) * get(rows.grads, static_cast<std::int64_t>(r), f));
      }
    }
    return d;
  }

  /// `backward` twice from zeroed row gradients: the second pass doubles them and leaves the activations'
  /// alone.
  void expect_contract(const std::function<void()>& backward, const std::vector<Out>& activations) {
    rows.grads.buffer.clear();
    backward();
    const Tensor once = copy_of(rows.grads);
    std::vector<Tensor> first;
    for (const Out& d : activations) {
      first.push_back(copy_of(d));
      fill_random(d, rng);
    }
    backward();
    for (std::size_t i = 0; i < activations.size(); ++i)
      EXPECT_TRUE(same_bits(activations[i], first[i])) << i;
    EXPECT_GT(max_abs(once), 0.0);
    for (std::int64_t r = 0; r < once.view.rows; ++r) {
      for (std::int64_t f = 0; f < kWidth; ++f) EXPECT_EQ(get(rows.grads, r, f), 2.0 * get(once, r, f));
    }
    rows.grads.buffer.clear();
    backward();
  }
};

TEST_F(GluTest, ForwardsAreTheFormulas) {
  auto expect_equal = [&](auto formula) {
    for (std::int64_t n = 0; n < kTokens; ++n) {
      for (std::int64_t f = 0; f < kWidth; ++f) {
        EXPECT_NEAR(get(h, n, f), formula(get(gate, n, f), get(up, n, f), row(n, f)), 1e-14) << n << ' ' << f;
      }
    }
  };
  swiglu_forward(ctx, h, gate, up);
  expect_equal([](double a, double b, double) { return silu(a) * b; });
  stem_forward(ctx, h, gate, rows.rows());
  expect_equal([](double a, double, double u) { return silu(a) * u; });
  stem_gate_forward(ctx, h, up, rows.rows());
  expect_equal([](double, double b, double u) { return silu(u) * b; });
  stem_additive_forward(ctx, h, gate, up, rows.rows());
  expect_equal([](double a, double b, double u) { return silu(a) * (b + u); });
}

TEST_F(GluTest, SwigluGradients) {
  swiglu_backward(ctx, d_gate, d_up, d_h, gate, up);
  auto objective = [&] {
    swiglu_forward(ctx, h, gate, up);
    return inner(h, d_h);
  };
  EXPECT_LT(gradient_error(objective, gate, d_gate), 1e-6);
  EXPECT_LT(gradient_error(objective, up, d_up), 1e-6);
}

TEST_F(GluTest, StemGradients) {
  expect_contract([&] { stem_backward(ctx, d_gate, rows.gradients(), d_h, gate, rows.rows()); }, {d_gate});
  auto objective = [&] {
    stem_forward(ctx, h, gate, rows.rows());
    return inner(h, d_h);
  };
  EXPECT_LT(gradient_error(objective, gate, d_gate), 1e-6);
  EXPECT_LT(gradient_error(objective, rows.table, d_table()), 1e-6);
}

TEST_F(GluTest, StemGateGradients) {
  expect_contract([&] { stem_gate_backward(ctx, d_up, rows.gradients(), d_h, up, rows.rows()); }, {d_up});
  auto objective = [&] {
    stem_gate_forward(ctx, h, up, rows.rows());
    return inner(h, d_h);
  };
  // Null rows make h zero whatever up is: the gradient there is exactly zero.
  EXPECT_EQ(max_abs(d_up.view.slice_rows(1, 1)), 0.0);
  EXPECT_LT(gradient_error(objective, up, d_up), 1e-6);
  EXPECT_LT(gradient_error(objective, rows.table, d_table()), 1e-6);
}

TEST_F(GluTest, StemAdditiveGradients) {
  expect_contract(
      [&] { stem_additive_backward(ctx, d_gate, d_up, rows.gradients(), d_h, gate, up, rows.rows()); },
      {d_gate, d_up});
  auto objective = [&] {
    stem_additive_forward(ctx, h, gate, up, rows.rows());
    return inner(h, d_h);
  };
  EXPECT_LT(gradient_error(objective, gate, d_gate), 1e-6);
  EXPECT_LT(gradient_error(objective, up, d_up), 1e-6);
  EXPECT_LT(gradient_error(objective, rows.table, d_table()), 1e-6);
}

// A missing table is a table of zeros, which still learns: that is how stem_additive starts.
TEST_F(GluTest, NullRowsAreZeroRowsWithGradients) {
  TokenRows zero{rows.tokens, 6, kWidth, f64, f64, rng};
  zero.table.buffer.clear();
  TokenRows null = TokenRows{rows.tokens, 6, kWidth, f64, f64, rng};
  for (RowPointer& p : null.pointers) p = {};
  Tensor h_null(f64, kTokens, kWidth), d_gate_null(f64, kTokens, kWidth), d_up_null(f64, kTokens, kWidth);
  stem_additive_forward(ctx, h, gate, up, zero.rows());
  stem_additive_forward(ctx, h_null, gate, up, null.rows());
  stem_additive_backward(ctx, d_gate, d_up, zero.gradients(), d_h, gate, up, zero.rows());
  stem_additive_backward(ctx, d_gate_null, d_up_null, null.gradients(), d_h, gate, up, null.rows());
  EXPECT_TRUE(same_bits(h_null, h));
  EXPECT_TRUE(same_bits(d_gate_null, d_gate));
  EXPECT_TRUE(same_bits(d_up_null, d_up));
  EXPECT_TRUE(same_bits(null.grads, zero.grads));
  EXPECT_GT(max_abs(null.grads), 0.0);
  swiglu_forward(ctx, h, gate, up);
  EXPECT_TRUE(same_bits(h_null, h));
}

TEST_F(GluTest, OutputsMayTakeTheInputsPlace) {
  Tensor in_gate = copy_of(gate), in_up = copy_of(up);
  swiglu_backward(ctx, d_gate, d_up, d_h, gate, up);
  swiglu_backward(ctx, in_gate, in_up, d_h, in_gate, in_up);
  EXPECT_TRUE(same_bits(in_gate, d_gate));
  EXPECT_TRUE(same_bits(in_up, d_up));
}

TEST_F(GluTest, ExtremeGatesStayFinite) {
  const double extremes[] = {-1e4, -100.0, 0.0, 100.0, 1e4};
  for (std::int64_t n = 0; n < kTokens; ++n) {
    for (std::int64_t f = 0; f < kWidth; ++f) set(gate, n, f, extremes[f]);
  }
  stem_forward(ctx, h, gate, rows.rows());
  stem_backward(ctx, d_gate, rows.gradients(), d_h, gate, rows.rows());
  EXPECT_TRUE(std::isfinite(max_abs(h)) && std::isfinite(max_abs(d_gate)) &&
              std::isfinite(max_abs(rows.grads)));
  EXPECT_EQ(get(d_gate, 0, 0), 0.0);                                  // SiLU' = 0 far left
  EXPECT_NEAR(get(d_gate, 0, 4), get(d_h, 0, 4) * row(0, 4), 1e-14);  // SiLU' = 1 far right
}

}  // namespace
}  // namespace stem
