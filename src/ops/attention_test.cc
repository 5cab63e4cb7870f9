#include "ops/attention.h"

#include <gtest/gtest.h>

#include <array>

#include "kernels/reference/reference.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f64 = DType::f64;

// Rotary embedding.

TEST(RopeTest, TableHoldsCosinesThenSines) {
  Tensor table(f64, 11, 6);
  rope_table(table, 100.0);
  for (std::int64_t i = 0; i < 3; ++i) {
    const double angle = 10.0 * std::pow(100.0, -static_cast<double>(i) / 3.0);
    EXPECT_NEAR(get(table, 10, i), std::cos(angle), 1e-14);
    EXPECT_NEAR(get(table, 10, 3 + i), std::sin(angle), 1e-14);
  }
}

class RopeOpTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kHeads = 3, kWidth = 6;
  Rng rng{3, 1};
  Context ctx{.kernels = &reference_kernels()};
  Tensor table{f64, 16, kWidth};
  std::vector<std::int32_t> positions{0, 1, 5, 15, 3};
  Tensor x = random_tensor(f64, 5, kHeads* kWidth, rng);

  void SetUp() override { rope_table(table, 10000.0); }
};

TEST_F(RopeOpTest, RotatesThePairsOfEveryHead) {
  Tensor y = copy_of(x);
  rope_forward(ctx, y, kHeads, table, positions);
  for (std::int64_t h = 0; h < kHeads; ++h) {
    const double angle = 5.0 * std::pow(10000.0, -2.0 / 6.0);  // position 5, pair 1
    const double a = get(x, 2, h * kWidth + 1), b = get(x, 2, h * kWidth + 4);
    EXPECT_NEAR(get(y, 2, h * kWidth + 1), a * std::cos(angle) - b * std::sin(angle), 1e-14);
    EXPECT_NEAR(get(y, 2, h * kWidth + 4), b * std::cos(angle) + a * std::sin(angle), 1e-14);
  }
}

TEST_F(RopeOpTest, BackwardIsTheInverseRotation) {
  Tensor y = copy_of(x);
  rope_forward(ctx, y, kHeads, table, positions);
  EXPECT_GT(relative_error(y, x), 0.1);
  rope_backward(ctx, y, kHeads, table, positions);
  EXPECT_LT(relative_error(y, x), 1e-14);
}

TEST_F(RopeOpTest, GradientAgreesWithCentralDifferences) {
  const Tensor d_y = random_tensor(f64, 5, kHeads * kWidth, rng);
  Tensor d_x = copy_of(d_y);
  rope_backward(ctx, d_x, kHeads, table, positions);
  auto objective = [&] {
    Tensor y = copy_of(x);
    rope_forward(ctx, y, kHeads, table, positions);
    return inner(y, d_y);
  };
  EXPECT_LT(gradient_error(objective, x, d_x), 1e-6);
}

TEST_F(RopeOpTest, APositionBeyondTheTableIsOurBug) {
  positions[4] = 16;
  EXPECT_DEATH(rope_forward(ctx, x, kHeads, table, positions), "position beyond");
}

// Attention: two documents of unequal length, grouped queries, q, k and v as columns of one fused matrix.

class AttentionTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kTokens = 9, kFirst = 5;
  static constexpr Heads kHeads{.query = 4, .key_value = 2, .width = 3};
  static constexpr std::int64_t kQuery = kHeads.query * kHeads.width, kKey = kHeads.key_value * kHeads.width;
  static constexpr std::array<Segment, 2> kDocuments{
      Segment{0, kFirst, 0, kFirst}, Segment{kFirst, kTokens - kFirst, kFirst, kTokens - kFirst}};

  Rng rng{4, 1};
  Context ctx{.kernels = &reference_kernels()};
  Tensor qkv = random_tensor(f64, kTokens, kQuery + 2 * kKey, rng);
  Out q = qkv.view.slice_cols(0, kQuery), k = qkv.view.slice_cols(kQuery, kKey),
      v = qkv.view.slice_cols(kQuery + kKey, kKey);
  Tensor y{f64, kTokens, kQuery}, lse{f64, kTokens, kHeads.query};

  void forward() { attention_forward(ctx, y, lse, q, k, v, kHeads, kDocuments); }
};

TEST_F(AttentionTest, ForwardIsTheFormula) {
  forward();
  const std::int64_t n = 7, h = 3, pair = 1;  // third token of the second document, last head
  double sum = 0.0, weighted = 0.0;
  for (std::int64_t j = kFirst; j <= n; ++j) {
    double score = 0.0;
    for (std::int64_t a = 0; a < 3; ++a) score += get(q, n, h * 3 + a) * get(k, j, pair * 3 + a);
    const double e = std::exp(score / std::sqrt(3.0));
    sum += e;
    weighted += e * get(v, j, pair * 3 + 2);
  }
  EXPECT_NEAR(get(y, n, h * 3 + 2), weighted / sum, 1e-14);
  EXPECT_NEAR(get(lse, n, h), std::log(sum), 1e-14);
}

TEST_F(AttentionTest, GradientsAgreeWithCentralDifferences) {
  const Tensor d_y = random_tensor(f64, kTokens, kQuery, rng);
  Tensor d_qkv = random_tensor(f64, kTokens, kQuery + 2 * kKey, rng);  // overwritten
  forward();
  attention_backward(ctx, d_qkv.view.slice_cols(0, kQuery), d_qkv.view.slice_cols(kQuery, kKey),
                     d_qkv.view.slice_cols(kQuery + kKey, kKey), d_y, q, k, v, y, lse, kHeads, kDocuments);
  auto objective = [&] {
    forward();
    return inner(y, d_y);
  };
  EXPECT_LT(gradient_error(objective, q, d_qkv.view.slice_cols(0, kQuery)), 1e-6);
  EXPECT_LT(gradient_error(objective, k, d_qkv.view.slice_cols(kQuery, kKey)), 1e-6);
  EXPECT_LT(gradient_error(objective, v, d_qkv.view.slice_cols(kQuery + kKey, kKey)), 1e-6);
}

TEST_F(AttentionTest, MasksHoldExactly) {
  forward();
  const Tensor before = copy_of(y);
  const std::int64_t changed =
      3;  // in the first document: its earlier tokens and the second document must not move
  for (std::int64_t j = 0; j < qkv.view.cols; ++j) set(qkv, changed, j, 100.0 * get(qkv, changed, j));
  forward();
  EXPECT_TRUE(same_bits(y.view.slice_rows(0, changed), before.view.slice_rows(0, changed)));
  EXPECT_TRUE(same_bits(y.view.slice_rows(kFirst, 4), before.view.slice_rows(kFirst, 4)));
  EXPECT_FALSE(same_bits(y.view.slice_rows(changed, 1), before.view.slice_rows(changed, 1)));
  EXPECT_FALSE(same_bits(y.view.slice_rows(changed + 1, 1), before.view.slice_rows(changed + 1, 1)));
}

TEST_F(AttentionTest, AChunkOfQueriesSeesTheKeysBeforeIt) {
  const std::array whole{Segment{0, kTokens, 0, kTokens}};
  const std::array tail{Segment{0, 3, 0, kTokens}};
  attention_forward(ctx, y, lse, q, k, v, kHeads, whole);
  Tensor last(f64, 3, kQuery);
  attention_forward(ctx, last, Out{}, q.slice_rows(kTokens - 3, 3), k, v, kHeads, tail);
  EXPECT_TRUE(same_bits(last, y.view.slice_rows(kTokens - 3, 3)));
}

TEST_F(AttentionTest, LargeScoresDoNotOverflow) {
  fill_random(q, rng, 100.0);
  fill_random(k, rng, 100.0);
  forward();
  EXPECT_LE(max_abs(y), max_abs(v) * (1.0 + 1e-12));
}

TEST_F(AttentionTest, InferenceTakesTheInvariantKernel) {
  static int invariant;
  invariant = 0;
  Kernels counting = reference_kernels();
  counting.attention.attention_invariant = [](Out, In, In, In, Heads, std::span<const Segment>) {
    ++invariant;
  };
  attention_forward({.kernels = &counting}, y, Out{}, q, k, v, kHeads, kDocuments);
  EXPECT_EQ(invariant, 0);
  attention_forward({.kernels = &counting, .inference = true}, y, Out{}, q, k, v, kHeads, kDocuments);
  EXPECT_EQ(invariant, 1);
}

TEST_F(AttentionTest, ASegmentBeyondTheRowsIsOurBug) {
  const std::array beyond{Segment{0, kTokens, 1, kTokens}};
  EXPECT_DEATH(attention_forward(ctx, y, lse, q, k, v, kHeads, beyond), "segment beyond k");
}

}  // namespace
}  // namespace stem
