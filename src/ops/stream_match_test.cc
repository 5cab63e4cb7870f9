#include "ops/stream_match.h"

#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

class StreamMatch : public ::testing::Test {
 protected:
  Rng rng{6, 1};
  Context ctx{.kernels = &reference_kernels()};
  Tensor x = random_tensor(DType::f64, 5, 7, rng), to = random_tensor(DType::f64, 5, 7, rng);
  std::vector<float> weights{0.5f, 0.25f, 0.0f, 1.0f, 2.0f};

  double matched(const Tensor& d_x) {
    const Tensor loss(DType::f64, 1, 5);
    match_stream(ctx, loss, d_x, {}, x, to, weights);
    double sum = 0;
    for (std::int64_t n = 0; n < 5; ++n)
      sum += static_cast<double>(weights[static_cast<std::size_t>(n)]) * get(loss, 0, n);
    return sum;
  }
};

TEST_F(StreamMatch, IsTheWeightedRelativeSquare) {
  Tensor d_x(DType::f64, 5, 7);
  double expected = 0;
  for (std::int64_t n = 0; n < 5; ++n) {
    double off = 0, size = 0;
    for (std::int64_t d = 0; d < 7; ++d) {
      off += std::pow(get(x, n, d) - get(to, n, d), 2);
      size += std::pow(get(to, n, d), 2);
    }
    expected += static_cast<double>(weights[static_cast<std::size_t>(n)]) * off / size;
  }
  EXPECT_NEAR(matched(d_x), expected, 1e-12);
}

TEST_F(StreamMatch, GradientAgreesWithCentralDifferencesAndAccumulates) {
  Tensor d_x(DType::f64, 5, 7);
  matched(d_x);
  const auto objective = [&] {
    Tensor unused(DType::f64, 5, 7);
    return matched(unused);
  };
  EXPECT_LT(gradient_error(objective, x, d_x), 1e-6);
  const Tensor once = copy_of(d_x);
  matched(d_x);
  for (std::int64_t n = 0; n < 5; ++n) EXPECT_NEAR(get(d_x, n, 3), 2 * get(once, n, 3), 1e-12);
}

TEST_F(StreamMatch, AnEmptyTargetTeachesNothing) {
  for (std::int64_t d = 0; d < 7; ++d) set(to, 1, d, 0.0);
  Tensor d_x(DType::f64, 5, 7);
  matched(d_x);
  for (std::int64_t d = 0; d < 7; ++d) {
    EXPECT_EQ(get(d_x, 1, d), 0.0);
    EXPECT_EQ(get(d_x, 2, d), 0.0);  // of weight 0
    EXPECT_NE(get(d_x, 3, d), 0.0);
  }
}

}  // namespace
}  // namespace stem
