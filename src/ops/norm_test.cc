#include "ops/norm.h"

#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f64 = DType::f64;
constexpr double kEps = 0.1;  // large, so that a gradient that forgets it is wrong

class NormTest : public ::testing::Test {
 protected:
  Rng rng{2, 1};
  Context ctx{.kernels = &reference_kernels()};
  Tensor x = random_tensor(f64, 5, 7, rng), weight = random_tensor(f64, 1, 7, rng),
         d_y = random_tensor(f64, 5, 7, rng);
  Tensor y{f64, 5, 7}, inv_rms{f64, 1, 5};

  double objective() {
    rms_norm_forward(ctx, y, inv_rms, x, weight, kEps);
    return inner(y, d_y);
  }
};

TEST_F(NormTest, ForwardIsTheFormula) {
  rms_norm_forward(ctx, y, inv_rms, x, weight, kEps);
  double squares = 0.0;
  for (std::int64_t d = 0; d < 7; ++d) squares += get(x, 3, d) * get(x, 3, d);
  const double r = std::pow(squares / 7.0 + kEps, -0.5);
  EXPECT_NEAR(get(inv_rms, 0, 3), r, 1e-14);
  EXPECT_NEAR(get(y, 3, 6), get(x, 3, 6) * r * get(weight, 0, 6), 1e-14);
}

TEST_F(NormTest, StatisticsAreOptional) {
  rms_norm_forward(ctx, y, inv_rms, x, weight, kEps);
  Tensor alone(f64, 5, 7);
  rms_norm_forward(ctx, alone, Out{}, x, weight, kEps);
  EXPECT_TRUE(same_bits(alone, y));
}

TEST_F(NormTest, GradientsAgreeWithCentralDifferences) {
  Tensor d_x(f64, 5, 7), d_weight(f64, 1, 7);
  objective();
  rms_norm_backward(ctx, d_x, {}, d_weight, d_y, x, weight, inv_rms);
  EXPECT_LT(gradient_error([&] { return objective(); }, x, d_x), 1e-6);
  EXPECT_LT(gradient_error([&] { return objective(); }, weight, d_weight), 1e-6);
}

TEST_F(NormTest, ResidualAndWeightGradientsAccumulate) {
  objective();
  Tensor d_x(f64, 5, 7), d_weight(f64, 1, 7);
  rms_norm_backward(ctx, d_x, {}, d_weight, d_y, x, weight, inv_rms);
  const Tensor before_x = random_tensor(f64, 5, 7, rng), before_w = random_tensor(f64, 1, 7, rng);
  Tensor sum_x = copy_of(before_x), sum_w = copy_of(before_w), no_weight = copy_of(before_x);
  rms_norm_backward(ctx, sum_x, {}, sum_w, d_y, x, weight, inv_rms);
  rms_norm_backward(ctx, no_weight, {}, Out{}, d_y, x, weight, inv_rms);
  EXPECT_TRUE(same_bits(no_weight, sum_x));
  for (std::int64_t d = 0; d < 7; ++d) {
    EXPECT_DOUBLE_EQ(get(sum_w, 0, d), get(before_w, 0, d) + get(d_weight, 0, d));
    for (std::int64_t n = 0; n < 5; ++n)
      EXPECT_DOUBLE_EQ(get(sum_x, n, d), get(before_x, n, d) + get(d_x, n, d));
  }
}

TEST_F(NormTest, NarrowOutputIsTheWideOneRounded) {
  Rng other(2, 2);
  const Tensor wide_x = random_tensor(DType::f32, 5, 7, other), w = random_tensor(DType::f32, 1, 7, other);
  Tensor wide(DType::f32, 5, 7), narrow(DType::bf16, 5, 7);
  rms_norm_forward(ctx, wide, Out{}, wide_x, w, 1e-5);
  rms_norm_forward(ctx, narrow, Out{}, wide_x, w, 1e-5);
  for (std::int64_t n = 0; n < 5; ++n) {
    for (std::int64_t d = 0; d < 7; ++d) {
      EXPECT_EQ(get(narrow, n, d), static_cast<double>(static_cast<float>(bf16(wide.view.row<float>(n)[d]))));
    }
  }
}

}  // namespace
}  // namespace stem
