#include "ops/moe.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "kernels/reference/reference.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f64 = DType::f64;
constexpr std::int64_t kTokens = 9, kExperts = 5, kChosen = 2, kWidth = 6;

class MoeTest : public ::testing::Test {
 protected:
  Rng rng{11, 1};
  Workspace workspace;
  Context ctx{.kernels = &reference_kernels(), .workspace = &workspace};
  Tensor logits = random_tensor(f64, kTokens, kExperts, rng);
  Tensor probabilities{f64, kTokens, kExperts}, lse{f64, 1, kTokens}, mix{f64, kTokens, kChosen};
  Dispatch d = allocate_dispatch(ctx, kTokens, kChosen, kExperts);

  void route() {
    route_forward(ctx, probabilities, lse, mix, d, logits);
    sort_by_expert(ctx, d);
  }
};

// Every assignment has a row of its own, in its expert's range, positions ascending; all else is padding.
void expect_sorted(const Dispatch& d, std::int64_t alignment) {
  std::set<std::int32_t> taken;
  for (std::int64_t i = 0; i < d.positions * d.chosen; ++i) {
    const std::int32_t e = d.expert[i], slot = d.slots[i];
    EXPECT_TRUE(taken.insert(slot).second) << "two assignments in row " << slot;
    EXPECT_GE(slot, d.offsets[e]);
    EXPECT_LT(slot, d.offsets[e] + d.counts[e]);
    EXPECT_EQ(d.rows[slot], i / d.chosen);
  }
  EXPECT_EQ(static_cast<std::int64_t>(taken.size()), d.positions * d.chosen);
  std::int64_t assignments = 0;
  EXPECT_EQ(d.offsets[0], 0);
  for (std::int64_t e = 0; e < d.experts; ++e) {
    const std::int64_t first = d.offsets[e], end = d.offsets[e + 1];
    EXPECT_EQ((end - first) % alignment, 0);
    EXPECT_LT(end - first - d.counts[e], alignment);
    for (std::int64_t m = first; m < end; ++m) {
      const bool padding = m >= first + d.counts[e];
      EXPECT_EQ(d.rows[m] == -1, padding);
      EXPECT_TRUE(padding || m == first || d.rows[m - 1] < d.rows[m]) << m;
    }
    assignments += d.counts[e];
  }
  EXPECT_EQ(assignments, d.positions * d.chosen);
}

TEST_F(MoeTest, EveryAssignmentHasARowWhateverTheLoad) {
  for (const bool inference : {false, true}) {
    ctx.inference = inference;
    for (const std::int64_t positions : {0L, 1L, 7L, 100L}) {
      for (const std::int64_t experts : {2L, 3L, 17L}) {
        for (const bool all_to_one : {false, true}) {
          Dispatch sorted = allocate_dispatch(ctx, positions, 2, experts);
          for (std::int64_t n = 0; n < positions; ++n) {
            const auto first =
                all_to_one ? 0 : static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(experts)));
            sorted.expert[2 * n] = first;
            sorted.expert[2 * n + 1] = static_cast<std::int32_t>((first + 1) % experts);
          }
          sort_by_expert(ctx, sorted);
          EXPECT_LE(sorted.row_count(), max_dispatch_rows(ctx, positions, 2, experts));
          expect_sorted(sorted, inference ? 1 : kExpertAlignment);
        }
      }
    }
  }
}

TEST_F(MoeTest, RoutingIsTheFormula) {
  set(logits.view, 3, 1, 2.5);
  set(logits.view, 3, 4, 2.5);  // equal: the lower id comes first
  set(logits.view, 5, 0, 700);  // exp overflows without the maximum taken out
  route();
  for (std::int64_t n = 0; n < kTokens; ++n) {
    double top = -1e300, total = 0, sum = 0, weights = 0;
    for (std::int64_t e = 0; e < kExperts; ++e) top = std::max(top, get(logits, n, e));
    for (std::int64_t e = 0; e < kExperts; ++e) total += std::exp(get(logits, n, e) - top);
    EXPECT_NEAR(get(lse, 0, n), top + std::log(total), 1e-12);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      EXPECT_NEAR(get(probabilities, n, e), std::exp(get(logits, n, e) - top) / total, 1e-12);
      sum += get(probabilities, n, e);
    }
    EXPECT_NEAR(sum, 1.0, 1e-12);
    const std::int32_t first = d.expert[n * kChosen], second = d.expert[n * kChosen + 1];
    EXPECT_NE(first, second);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      EXPECT_GE(get(logits, n, first), get(logits, n, e));
      EXPECT_TRUE(e == first || get(logits, n, second) >= get(logits, n, e)) << n << ' ' << e;
    }
    const double a = get(logits, n, first), b = get(logits, n, second);
    EXPECT_NEAR(get(mix, n, 0), 1 / (1 + std::exp(b - a)), 1e-12);
    for (std::int64_t j = 0; j < kChosen; ++j) weights += get(mix, n, j);
    EXPECT_NEAR(weights, 1.0, 1e-12);
  }
  EXPECT_EQ(d.expert[3 * kChosen], 1);
  EXPECT_EQ(d.expert[3 * kChosen + 1], 4);
}

TEST_F(MoeTest, LogitsThatAreNotNumbersStillChooseDistinctExperts) {
  for (std::int64_t e = 0; e < kExperts; ++e) set(logits.view, 2, e, std::nan(""));
  route();
  EXPECT_EQ(d.expert[2 * kChosen], 0);
  EXPECT_EQ(d.expert[2 * kChosen + 1], 1);
}

// Four positions, three experts, by hand.
TEST_F(MoeTest, AuxiliaryLossesByHand) {
  const Tensor p(f64, 4, 3), l(f64, 1, 4);
  const double rows[4][3] = {{0.5, 0.25, 0.25}, {0.5, 0.5, 0}, {0.25, 0.25, 0.5}, {1, 0, 0}};
  for (std::int64_t n = 0; n < 4; ++n) {
    for (std::int64_t e = 0; e < 3; ++e) set(p.view, n, e, rows[n][e]);
    set(l.view, 0, n, static_cast<double>(n));
  }
  Dispatch hand = allocate_dispatch(ctx, 4, 1, 3);
  for (std::int64_t n = 0; n < 4; ++n) hand.expert[n] = n == 2 ? 2 : 0;  // f = 3/4, 0, 1/4
  sort_by_expert(ctx, hand);
  const RouterSums sums = router_sums(ctx, p, l, hand);
  EXPECT_NEAR(sums.balance, 3 * (0.75 * 0.5625 + 0.25 * 0.1875), 1e-14);
  EXPECT_NEAR(sums.z, (0.0 + 1 + 4 + 9) / 4, 1e-14);
  const double half = 1.5 * std::log(2.0);  // entropy of (1/2, 1/4, 1/4)
  EXPECT_NEAR(sums.entropy, (half + std::log(2.0) + half + 0) / 4, 1e-14);
}

TEST_F(MoeTest, UniformRoutingHasBalanceOneAndEntropyLogE) {
  for (std::int64_t n = 0; n < kTokens; ++n) {
    for (std::int64_t e = 0; e < kExperts; ++e) set(logits.view, n, e, 0.5);
  }
  route();  // every position takes experts 0 and 1, the probabilities are uniform
  const RouterSums sums = router_sums(ctx, probabilities, lse, d);
  EXPECT_NEAR(sums.balance, 1.0, 1e-12);
  EXPECT_NEAR(sums.entropy, std::log(5.0), 1e-12);
  EXPECT_NEAR(sums.z, std::pow(0.5 + std::log(5.0), 2), 1e-12);
}

TEST_F(MoeTest, RouterGradients) {
  const Tensor d_mix = random_tensor(f64, kTokens, kChosen, rng);
  for (const auto [mixing, balance, z] :
       {std::array{1.0, 0.0, 0.0}, {0.0, 1.0, 0.0}, {0.0, 0.0, 1.0}, {1.0, 0.3, 0.2}}) {
    Tensor weighted = copy_of(d_mix);
    for (std::int64_t i = 0; i < weighted.view.size(); ++i)
      set(weighted.view, i / kChosen, i % kChosen, mixing * get(weighted, i / kChosen, i % kChosen));
    const auto objective = [&, b = balance, c = z] {
      route();
      const RouterSums sums = router_sums(ctx, probabilities, lse, d);
      return inner(mix, weighted) + b * sums.balance + c * sums.z;
    };
    objective();
    Tensor d_logits = random_tensor(f64, kTokens, kExperts, rng);
    route_backward(ctx, d_logits, weighted, mix, probabilities, lse, d, balance, z);
    EXPECT_LT(gradient_error(objective, logits, d_logits), 1e-6) << mixing << ' ' << balance << ' ' << z;
  }
}

TEST_F(MoeTest, RowsGoToTheirExpertsAndComeBackMixed) {
  route();
  const std::int64_t m = d.row_count();
  const Tensor x = random_tensor(f64, kTokens, kWidth, rng), y = random_tensor(f64, m, kWidth, rng);
  Tensor rows = random_tensor(f64, m, kWidth, rng);
  dispatch_forward(ctx, rows, x, d);
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t c = 0; c < kWidth; ++c)
      EXPECT_EQ(get(rows, i, c), d.rows[i] < 0 ? 0.0 : get(x, d.rows[i], c));
  }
  const Tensor before = random_tensor(f64, kTokens, kWidth, rng);
  Tensor out = copy_of(before);
  combine_forward(ctx, out, y, mix, d);
  for (std::int64_t n = 0; n < kTokens; ++n) {
    for (std::int64_t c = 0; c < kWidth; ++c) {
      double sum = get(before, n, c);
      for (std::int64_t j = 0; j < kChosen; ++j) sum += get(mix, n, j) * get(y, d.slots[n * kChosen + j], c);
      EXPECT_NEAR(get(out, n, c), sum, 1e-14);
    }
  }
}

TEST_F(MoeTest, MovementGradients) {
  route();
  const std::int64_t m = d.row_count();
  const Tensor x = random_tensor(f64, kTokens, kWidth, rng), d_rows = random_tensor(f64, m, kWidth, rng);
  Tensor rows(f64, m, kWidth), d_x(f64, kTokens, kWidth);
  dispatch_backward(ctx, d_x, d_rows, d);
  const auto dispatched = [&] {
    dispatch_forward(ctx, rows, x, d);
    return inner(rows, d_rows);
  };
  EXPECT_LT(gradient_error(dispatched, x, d_x), 1e-6);
  const Tensor once = copy_of(d_x);
  dispatch_backward(ctx, d_x, d_rows, d);  // accumulates
  EXPECT_EQ(get(d_x, 4, 2), 2 * get(once, 4, 2));

  const Tensor y = random_tensor(f64, m, kWidth, rng), d_out = random_tensor(f64, kTokens, kWidth, rng);
  Tensor d_y = random_tensor(f64, m, kWidth, rng), d_mix = random_tensor(f64, kTokens, kChosen, rng);
  combine_backward(ctx, d_y, d_mix, d_out, y, mix, d);
  const auto combined = [&] {
    const Tensor out(f64, kTokens, kWidth);
    combine_forward(ctx, out, y, mix, d);
    return inner(out, d_out);
  };
  EXPECT_LT(gradient_error(combined, y, d_y), 1e-6);
  EXPECT_LT(gradient_error(combined, mix, d_mix), 1e-6);
}

// The map is part of every hash_moe model file: these numbers must never change.
TEST(HashExpert, IsFixed) {
  const std::array<std::int32_t, 16> expected{4, 2, 13, 0, 4, 3, 3, 1, 0, 12, 4, 9, 3, 14, 9, 8};
  std::array<std::int32_t, 16> found{};
  for (std::int32_t t = 0; t < 16; ++t) found[static_cast<std::size_t>(t)] = hash_expert(1, t, 16);
  EXPECT_EQ(found, expected);
}

TEST(HashExpert, IsUniformAndSeeded) {
  constexpr std::int32_t kVocab = 32768;
  for (const std::int64_t experts : {3L, 16L}) {
    std::vector<double> counts(static_cast<std::size_t>(experts), 0.0);
    std::int64_t same = 0;
    for (std::int32_t t = 0; t < kVocab; ++t) {
      const std::int32_t e = hash_expert(1, t, experts);
      ASSERT_GE(e, 0);
      ASSERT_LT(e, experts);
      ++counts[static_cast<std::size_t>(e)];
      same += e == hash_expert(2, t, experts);
    }
    const double mean = static_cast<double>(kVocab) / static_cast<double>(experts);
    double chi2 = 0;
    for (const double c : counts) chi2 += (c - mean) * (c - mean) / mean;
    EXPECT_LT(chi2, 40.0);  // 15 degrees of freedom: p = 5e-4
    EXPECT_NEAR(static_cast<double>(same), mean, 5 * std::sqrt(mean));
  }
}

}  // namespace
}  // namespace stem
