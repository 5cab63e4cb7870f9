#include "convert/weight_refit.h"

#include <gtest/gtest.h>

#include <Eigen/Dense>

#include "kernels/cpu/cpu.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr std::int64_t kPositions = 60, kInputs = 5, kWidth = 3, kSequence = 12;

class WeightRefitTest : public ::testing::Test {
 protected:
  WeightRefitTest() {
    fill(target), fill(inputs), fill(before);
    // Start tokens a thousand times as large: they count as one position each, no more.
    for (std::int64_t n = 0; n < kPositions; n += kSequence) {
      for (std::int64_t d = 0; d < kWidth; ++d) target.view.row<float>(n)[d] *= 1000.0f;
      for (std::int64_t k = 0; k < kInputs; ++k) inputs.view.row<float>(n)[k] *= 1000.0f;
    }
  }
  void fill(const Tensor& t) {
    for (std::int64_t i = 0; i < t.view.size(); ++i)
      t.view.row<float>(0)[i] = static_cast<float>(rng.uniform() - 0.5);
  }
  Tensor solve(double ridge) {
    WeightRefit refit(target, kInputs, kSequence);
    refit.add(ctx, 0, inputs.view.slice_rows(0, 24));
    refit.add(ctx, 24, inputs.view.slice_rows(24, kPositions - 24));
    return refit.solve(before, ridge);
  }

  Rng rng{3, 1};
  Workspace workspace;
  Context ctx{&cpu_kernels(), &workspace, false};
  Tensor target{DType::f32, kPositions, kWidth}, inputs{DType::f32, kPositions, kInputs},
      before{DType::f32, kWidth, kInputs};
};

// By a least squares of its own over the weighted positions, the ridge as further ones.
TEST_F(WeightRefitTest, IsTheWeightedLeastSquares) {
  constexpr double kRidge = 0.05;
  Eigen::MatrixXd z(kPositions + kInputs, kInputs), y(kPositions + kInputs, kWidth);
  double mean = 0;
  const auto square = [&](std::int64_t n) {
    double sum = 0;
    for (std::int64_t d = 0; d < kWidth; ++d) sum += std::pow(get(target, n, d), 2);
    return sum / kWidth;
  };
  for (std::int64_t n = 0; n < kPositions; ++n) mean += n % kSequence == 0 ? 0 : square(n) / kPositions;
  double diagonal = 0;
  for (std::int64_t n = 0; n < kPositions; ++n) {
    const double weight = 1 / std::sqrt(square(n) + 0.01 * mean);
    for (std::int64_t k = 0; k < kInputs; ++k) z(n, k) = weight * get(inputs, n, k);
    for (std::int64_t d = 0; d < kWidth; ++d) y(n, d) = weight * get(target, n, d);
    diagonal += z.row(n).squaredNorm() / kInputs;
  }
  const double pull = std::sqrt(kRidge * diagonal);
  z.bottomRows(kInputs).setIdentity();
  z.bottomRows(kInputs) *= pull;
  for (std::int64_t k = 0; k < kInputs; ++k) {
    for (std::int64_t d = 0; d < kWidth; ++d) y(kPositions + k, d) = pull * get(before, d, k);
  }
  const Eigen::MatrixXd wanted = z.colPivHouseholderQr().solve(y);
  const Tensor found = solve(kRidge);
  for (std::int64_t k = 0; k < kInputs; ++k) {
    for (std::int64_t d = 0; d < kWidth; ++d) EXPECT_NEAR(get(found, d, k), wanted(k, d), 1e-4);
  }
}

TEST_F(WeightRefitTest, AHugeRidgeKeepsTheWeight) {
  const Tensor found = solve(1e7);
  for (std::int64_t i = 0; i < before.view.size(); ++i)
    EXPECT_NEAR(found.view.row<float>(0)[i], before.view.row<float>(0)[i], 1e-4);
}

}  // namespace
}  // namespace stem
