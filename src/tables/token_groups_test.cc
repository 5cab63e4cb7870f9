#include "tables/token_groups.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/rng.h"

namespace stem {
namespace {

TEST(TokenGroups, DistinctTokensAscendWithTheirPositionsAscending) {
  const std::vector<std::int32_t> tokens{7, 3, 7, 0, 3, 7};
  const TokenGroups groups(tokens);
  EXPECT_EQ(groups.distinct(), 3);
  EXPECT_TRUE(std::ranges::equal(groups.tokens(), std::vector<std::int32_t>{0, 3, 7}));
  EXPECT_EQ(groups.count(0), 1);
  EXPECT_EQ(groups.count(1), 2);
  EXPECT_EQ(groups.count(2), 3);
  const RowGradients g = groups.gradients({}, 0, 4);
  EXPECT_TRUE(std::ranges::equal(std::span(g.offsets, 4), std::vector<std::int32_t>{0, 1, 3, 6}));
  EXPECT_TRUE(std::ranges::equal(std::span(g.positions, 6), std::vector<std::int32_t>{3, 1, 4, 0, 2, 5}));
}

TEST(TokenGroups, AgreesWithAMapOnRandomBatches) {
  Rng rng(11, 0);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::int32_t> tokens(1 + rng.below(200));
    for (auto& t : tokens) t = static_cast<std::int32_t>(rng.below(1 + rng.below(60)));
    std::map<std::int32_t, std::vector<std::int32_t>> expected;
    for (std::size_t i = 0; i < tokens.size(); ++i)
      expected[tokens[i]].push_back(static_cast<std::int32_t>(i));
    const TokenGroups groups(tokens);
    ASSERT_EQ(groups.distinct(), static_cast<std::int64_t>(expected.size()));
    const RowGradients g = groups.gradients({}, 0, 1);
    std::size_t r = 0;
    for (const auto& [token, positions] : expected) {
      EXPECT_EQ(groups.tokens()[r], token);
      EXPECT_TRUE(std::ranges::equal(std::span(g.positions + g.offsets[r], g.positions + g.offsets[r + 1]),
                                     positions));
      ++r;
    }
  }
}

TEST(TokenGroups, GradientsAreALayersColumnsOfTheRecords) {
  const std::vector<std::int32_t> tokens{5, 2, 5};
  const TokenGroups groups(tokens);
  std::vector<float> records(2 * 6, 0.0f);  // R = 2, S = 2, F = 3
  const RowGradients second = groups.gradients(matrix(records.data(), 2, 6), 3, 3);
  EXPECT_EQ(second.grads, records.data() + 3);
  EXPECT_EQ(second.stride, 6);
  EXPECT_EQ(second.cols, 3);
  EXPECT_EQ(second.distinct, 2);
  EXPECT_EQ(second.dtype, DType::f32);
}

TEST(TokenGroups, GroupsOfAWiderListMayBeEmpty) {
  const std::vector<std::int32_t> tokens{9, 2, 9, 5, 2, 9};
  const TokenGroups own(tokens), wide(tokens, std::vector<std::int32_t>{1, 2, 5, 7, 9});
  EXPECT_EQ(wide.distinct(), 5);
  EXPECT_EQ(wide.count(0), 0);
  EXPECT_EQ(wide.count(1), 2);
  EXPECT_EQ(wide.count(3), 0);
  EXPECT_EQ(wide.count(4), 3);
  const RowGradients a = own.gradients({}, 0, 1), b = wide.gradients({}, 0, 1);
  EXPECT_EQ(std::vector<std::int32_t>(a.positions, a.positions + 6),
            std::vector<std::int32_t>(b.positions, b.positions + 6));
  EXPECT_EQ(b.offsets[5], 6);
}

TEST(TokenGroups, RowsThatWantNoGradientHaveNoGroups) {
  const TokenGroups groups(std::vector<std::int32_t>{3, 1});
  EXPECT_EQ(groups.gradients({nullptr, DType::f32, 0, 8, 8}, 0, 4).distinct, 0);
  EXPECT_EQ(groups.gradients({}, 0, 4).distinct, 2);
}

TEST(TokenGroups, AnEmptyBatchHasNoGroups) {
  const TokenGroups groups({});
  EXPECT_EQ(groups.distinct(), 0);
  EXPECT_EQ(groups.gradients({}, 0, 1).offsets[0], 0);
}

}  // namespace
}  // namespace stem
