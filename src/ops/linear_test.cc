#include "ops/linear.h"

#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f64 = DType::f64;

class LinearTest : public ::testing::Test {
 protected:
  Rng rng{1, 1};
  Context ctx{.kernels = &reference_kernels()};
  Tensor x = random_tensor(f64, 5, 7, rng), w = random_tensor(f64, 3, 7, rng),
         d_y = random_tensor(f64, 5, 3, rng);
  Tensor y{f64, 5, 3};

  double objective() {
    linear_forward(ctx, y, x, {w});
    return inner(y, d_y);
  }
};

TEST_F(LinearTest, IsXTimesWeightTransposed) {
  linear_forward(ctx, y, x, {w});
  double sum = 0.0;
  for (std::int64_t i = 0; i < 7; ++i) sum += get(x, 4, i) * get(w, 2, i);
  EXPECT_NEAR(get(y, 4, 2), sum, 1e-14);
}

TEST_F(LinearTest, GradientsAgreeWithCentralDifferences) {
  Tensor d_x(f64, 5, 7), d_w(f64, 3, 7);
  linear_backward(ctx, d_x, d_w, d_y, x, {w});
  EXPECT_LT(gradient_error([&] { return objective(); }, x, d_x), 1e-6);
  EXPECT_LT(gradient_error([&] { return objective(); }, w, d_w), 1e-6);
}

TEST_F(LinearTest, WeightGradientAccumulatesAndActivationGradientOverwrites) {
  Tensor d_x(f64, 5, 7), d_w(f64, 3, 7);
  linear_backward(ctx, d_x, d_w, d_y, x, {w});
  Tensor twice_x = random_tensor(f64, 5, 7, rng), twice_w = copy_of(d_w);
  linear_backward(ctx, twice_x, twice_w, d_y, x, {w});
  EXPECT_TRUE(same_bits(twice_x, d_x));
  for (std::int64_t i = 0; i < 3; ++i) {
    for (std::int64_t j = 0; j < 7; ++j) EXPECT_DOUBLE_EQ(get(twice_w, i, j), 2.0 * get(d_w, i, j));
  }
}

TEST_F(LinearTest, AccumulateAddsToTheResidual) {
  const Tensor before = random_tensor(f64, 5, 3, rng);
  Tensor sum = copy_of(before);
  linear_forward(ctx, y, x, {w});
  linear_forward(ctx, sum, x, {w}, sum);
  for (std::int64_t n = 0; n < 5; ++n) {
    for (std::int64_t o = 0; o < 3; ++o) EXPECT_DOUBLE_EQ(get(sum, n, o), get(before, n, o) + get(y, n, o));
  }
}

TEST_F(LinearTest, NullGradientsAreSkipped) {
  Tensor d_x(f64, 5, 7), d_w(f64, 3, 7), only_x(f64, 5, 7), only_w(f64, 3, 7);
  linear_backward(ctx, d_x, d_w, d_y, x, {w});
  linear_backward(ctx, only_x, Out{}, d_y, x, {w});
  linear_backward(ctx, Out{}, only_w, d_y, x, {w});
  EXPECT_TRUE(same_bits(only_x, d_x));
  EXPECT_TRUE(same_bits(only_w, d_w));
}

TEST_F(LinearTest, GroupsGiveWhatTheirPartsGive) {
  const Tensor v = random_tensor(f64, 4, 7, rng), d_out = random_tensor(f64, 5, 3, rng),
               d_z = random_tensor(f64, 5, 4, rng);
  Tensor z(f64, 5, 4), want_z(f64, 5, 4), want_y(f64, 5, 3);
  const LinearPart parts[] = {{y, x, {w}}, {z, x, {v}}};
  linear_forward_group(ctx, parts);
  linear_forward(ctx, want_y, x, {w});
  linear_forward(ctx, want_z, x, {v});
  EXPECT_TRUE(same_bits(y, want_y) && same_bits(z, want_z));

  Tensor d_t(f64, 5, 7), d_u(f64, 5, 7), d_v(f64, 3, 7), want_x(f64, 5, 7), want_u(f64, 5, 7),
      want_w(f64, 3, 7);
  const LinearGradientPart gradients[] = {{d_t, d_v, d_out, x, {w}}, {d_u, Out{}, d_z, x, {v}}};
  linear_backward_group(ctx, gradients);
  linear_backward(ctx, want_x, want_w, d_out, x, {w});
  linear_backward(ctx, want_u, Out{}, d_z, x, {v});
  EXPECT_TRUE(same_bits(d_t, want_x) && same_bits(d_u, want_u) && same_bits(d_v, want_w));
}

TEST_F(LinearTest, NoRowsChangeNothing) {
  Tensor none_x(f64, 0, 7), none_y(f64, 0, 3);
  const Tensor before = random_tensor(f64, 3, 7, rng);
  Tensor d_w = copy_of(before);
  linear_forward(ctx, none_y, none_x, {w});
  linear_backward(ctx, none_x, d_w, none_y, none_x, {w});
  EXPECT_TRUE(same_bits(d_w, before));
}

TEST_F(LinearTest, InferenceTakesTheInvariantKernelAndWideInput) {
  static int gemms;
  gemms = 0;
  Kernels counting = reference_kernels();
  counting.gemm.gemm = [](Out, In, bool, In, bool, In) { ++gemms; };
  const Context inference{.kernels = &counting, .inference = true}, training{.kernels = &counting};
  const Tensor narrow_w = random_tensor(DType::bf16, 3, 7, rng),
               wide_x = random_tensor(DType::f32, 5, 7, rng);
  Tensor wide_y(DType::f32, 5, 3);
  linear_forward(inference, wide_y, wide_x, {narrow_w});
  EXPECT_EQ(gemms, 0);
  EXPECT_GT(max_abs(wide_y), 0.0);
  linear_forward(training, y, x, {w});
  EXPECT_EQ(gemms, 1);
}

TEST_F(LinearTest, ConvertRoundsToNearestEven) {
  Tensor wide(DType::f32, 1, 4), narrow(DType::bf16, 1, 4);
  // bf16 has 8 significant bits: 1 + 2^-8 lies halfway between 1 and 1 + 2^-7, 1 + 3·2^-8 between odd and
  // even above.
  const double values[] = {1.0 + 0x1p-8, 1.0 + 3 * 0x1p-8, 1.0 + 0x1p-8 + 0x1p-20, -1.0 - 0x1p-8};
  const double rounded[] = {1.0, 1.0 + 0x1p-6, 1.0 + 0x1p-7, -1.0};
  for (std::int64_t j = 0; j < 4; ++j) set(wide.view, 0, j, values[j]);
  convert(ctx, narrow, wide);
  for (std::int64_t j = 0; j < 4; ++j) EXPECT_EQ(get(narrow, 0, j), rounded[j]) << j;
}

TEST_F(LinearTest, WrongShapesAreOurBug) {
  Tensor short_x(f64, 5, 6);
  EXPECT_DEATH(linear_forward(ctx, y, short_x, {w}), "weight is not");
  EXPECT_DEATH(linear_backward(ctx, short_x, Out{}, d_y, x, {w}), "d_x is not");
}

}  // namespace
}  // namespace stem
