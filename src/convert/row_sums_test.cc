#include "convert/row_sums.h"

#include <gtest/gtest.h>

#include <cmath>

#include "convert/least_squares.h"
#include "core/rng.h"
#include "kernels/cpu/cpu.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

class RowSumsTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kWidth = 5;
  Tensor random(std::int64_t rows, std::int64_t cols) { return random_tensor(DType::f32, rows, cols, rng); }
  // u comes as the prior [R, F], which counts as so many occurrences.
  static void solve(const RowSums& sums, const Tensor& u, double occurrences) {
    const std::vector<float> weight = sums.typical_weight(occurrences);
    for (std::int64_t r = 0; r < u.view.rows; ++r)
      sums.solve(r, {u.view.row<float>(r), weight.size()}, weight);
  }
  static float& at(const Tensor& t, std::int64_t r, std::int64_t c) { return t.view.row<float>(r)[c]; }

  Rng rng{3, 1};
  Workspace workspace;
  Context ctx{&cpu_kernels(), &workspace, false};
};

// The rows against the least squares of each token and coordinate, solved as a one by one system.
TEST_F(RowSumsTest, RowsAreTheLeastSquaresOverEachTokensOccurrences) {
  const std::vector<std::int32_t> text{7, 2, 7, 40, 7, 2}, distinct{2, 7, 40};
  const Tensor gate = random(6, kWidth), z = random(6, kWidth), u = random(3, kWidth);
  RowSums sums(distinct, kWidth);
  sums.add(ctx, std::span(text).first(4), gate.view.slice_rows(0, 4), z.view.slice_rows(0, 4));
  sums.add(ctx, std::span(text).subspan(4), gate.view.slice_rows(4, 2), z.view.slice_rows(4, 2));
  EXPECT_EQ(sums.positions(), 6);
  solve(sums, u, 0.0);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t f = 0; f < kWidth; ++f) {
      const Tensor a(DType::f32, 1, 1), b(DType::f32, 1, 1), x(DType::f32, 1, 1);
      for (std::int64_t n = 0; n < 6; ++n) {
        if (text[static_cast<std::size_t>(n)] != distinct[static_cast<std::size_t>(r)]) continue;
        const double s = silu(static_cast<double>(at(gate, n, f)));
        at(a, 0, 0) += static_cast<float>(s * s);
        at(b, 0, 0) += static_cast<float>(s * static_cast<double>(at(z, n, f)));
      }
      solve_ridge(x, a, b, 0.0);
      EXPECT_NEAR(at(u, r, f), at(x, 0, 0), 1e-4 * std::max(1.0f, std::abs(at(x, 0, 0)))) << r << ' ' << f;
    }
  }
}

// Where the up-projection depends on the token alone, a row gives the dense product back, whatever the gates
// are.
TEST_F(RowSumsTest, NothingIsLostWhereUpDependsOnTheTokenAlone) {
  const std::vector<std::int32_t> text{1, 3, 1, 3, 3}, distinct{1, 3};
  const Tensor gate = random(5, kWidth), up = random(2, kWidth), z = random(5, kWidth), u = random(2, kWidth);
  for (std::int64_t n = 0; n < 5; ++n) {
    for (std::int64_t f = 0; f < kWidth; ++f)
      at(z, n, f) = static_cast<float>(silu(static_cast<double>(at(gate, n, f)))) *
                    at(up, text[static_cast<std::size_t>(n)] == 3, f);
  }
  RowSums sums(distinct, kWidth);
  sums.add(ctx, text, gate, z);
  solve(sums, u, 0.0);
  for (std::int64_t r = 0; r < 2; ++r) {
    for (std::int64_t f = 0; f < kWidth; ++f) EXPECT_NEAR(at(u, r, f), at(up, r, f), 1e-4);
  }
}

TEST_F(RowSumsTest, APriorCountsAsSoManyOccurrencesAndIsAllThereIsOfUnseenTokens) {
  const std::vector<std::int32_t> text{4, 4, 4, 4}, distinct{4, 9};
  const Tensor gate(DType::f32, 4, 1), z(DType::f32, 4, 1), u(DType::f32, 2, 1);
  for (std::int64_t n = 0; n < 4; ++n) {
    at(gate, n, 0) = 2.0f;
    at(z, n, 0) = static_cast<float>(silu(2.0)) * 10.0f;
  }
  at(u, 0, 0) = at(u, 1, 0) = 40.0f;
  RowSums sums(distinct, 1);
  sums.add(ctx, text, gate, z);
  solve(sums, u, 2.0);  // 4 occurrences of 10, 2 of 40
  EXPECT_NEAR(at(u, 0, 0), 20.0, 1e-3);
  EXPECT_NEAR(at(u, 1, 0), 40.0, 1e-3);
}

TEST_F(RowSumsTest, LeastSquaresOfALargerSystemAndOfOneThatDeterminesNothing) {
  const Tensor m = random(40, 12), x = random(12, 3), b(DType::f32, 12, 3), a(DType::f32, 12, 12);
  for (std::int64_t i = 0; i < 12; ++i) {
    for (std::int64_t j = 0; j < 12; ++j) {
      for (std::int64_t n = 0; n < 40; ++n) at(a, i, j) += at(m, n, i) * at(m, n, j);
    }
  }
  const double ridge = 0.1;
  double mean = 0;
  for (std::int64_t i = 0; i < 12; ++i) mean += static_cast<double>(at(a, i, i)) / 12;
  for (std::int64_t i = 0; i < 12; ++i) {
    for (std::int64_t c = 0; c < 3; ++c) {
      double sum = ridge * mean * static_cast<double>(at(x, i, c));
      for (std::int64_t j = 0; j < 12; ++j)
        sum += static_cast<double>(at(a, i, j)) * static_cast<double>(at(x, j, c));
      at(b, i, c) = static_cast<float>(sum);
    }
  }
  solve_ridge(b, a, b, ridge);
  for (std::int64_t i = 0; i < 12; ++i) {
    for (std::int64_t c = 0; c < 3; ++c) EXPECT_NEAR(at(b, i, c), at(x, i, c), 1e-4);
  }
  const Tensor zeros(DType::f32, 12, 12);
  try {
    solve_ridge(b, zeros, b, ridge);
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "least squares of 12 unknowns: expected equations that determine them");
  }
}

}  // namespace
}  // namespace stem
