#include "apps/table_plan.h"

#include <gtest/gtest.h>

namespace stem {
namespace {
using Kind = TablePlacement::Kind;
constexpr double kMB = 1 << 20;

// 100,000 records of 40 kB: 4 GB; a token takes 10 ms, a read 1 ms of which 0.2 are hidden.
TablePlanInput large() {
  TablePlanInput in;
  in.memory = 2048 * kMB;
  in.dense = 500 * kMB;
  in.cache = 100 * kMB;
  in.program = 50 * kMB;
  in.vocab = 100'000;
  in.record = 40'000;
  in.token_s = 0.010;
  in.hidden_s = 0.0002;
  in.record_s = 0.001;
  return in;
}

TEST(TablePlan, HitRatesFollowTheMeasuredPoints) {
  EXPECT_DOUBLE_EQ(text_hit_rate(0.01, 151'000), 0.78);
  EXPECT_DOUBLE_EQ(text_hit_rate(0.05, 151'000), 0.91);
  EXPECT_DOUBLE_EQ(text_hit_rate(0.10, 151'000), 0.95);
  EXPECT_EQ(text_hit_rate(1.0, 151'000), 1.0);
  EXPECT_EQ(text_hit_rate(0.0, 151'000), 0.0);
  double before = 0;
  for (double share = 1e-6; share <= 1; share *= 1.3) {
    for (const std::int64_t vocab : {1, 50, 49'152, 1'000'000}) {
      EXPECT_GE(text_hit_rate(share, vocab), 0.0);
      EXPECT_LE(text_hit_rate(share, vocab), 1.0);
      EXPECT_LE(zipf_hit_rate(share, vocab), 1.0);
    }
    EXPECT_GE(text_hit_rate(share, 49'152), before);
    before = text_hit_rate(share, 49'152);
  }
  EXPECT_NEAR(zipf_hit_rate(0.01, 10'000), 0.5, 1e-12);
}

TEST(TablePlan, WhatDoesNotFitIsRefusedWithAReason) {
  const auto plan = plan_tables(large());
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].placement.kind, Kind::memory);
  EXPECT_FALSE(plan[0].fits);
  EXPECT_NE(plan[0].reason.find("more than may be used"), std::string::npos);
  EXPECT_TRUE(plan[1].fits);
  EXPECT_TRUE(plan[2].fits);
  EXPECT_EQ(plan[2].placement.kind, Kind::disk);
  EXPECT_LE(plan[2].resident, large().memory);
  EXPECT_EQ(plan[2].placement.budget_bytes % (1 << 20), 0);
  EXPECT_GT(plan[2].hit_rate, 0.95);
  EXPECT_NEAR(plan[0].tokens_per_s, 100, 1e-9);
  EXPECT_NEAR(1 / plan[2].tokens_per_s, 0.010 + (1 - plan[2].hit_rate) * 0.0008, 1e-12);
  EXPECT_EQ(recommended(plan)->placement.kind, Kind::disk);
}

TEST(TablePlan, MemoryIsTakenWhereItFits) {
  TablePlanInput in = large();
  in.memory = 8192 * kMB;
  const auto plan = plan_tables(in);
  EXPECT_TRUE(plan[0].fits && plan[1].fits && plan[2].fits);
  EXPECT_EQ(recommended(plan)->placement.kind, Kind::memory);
  EXPECT_EQ(plan[2].placement.budget_bytes, 4'000'000'000);
}

TEST(TablePlan, NothingFitsWhereTheDensePartDoesNot) {
  TablePlanInput in = large();
  in.memory = 600 * kMB;
  const auto plan = plan_tables(in);
  for (const PlacedTable& p : plan) EXPECT_FALSE(p.fits) << placement_text(p.placement);
  EXPECT_EQ(recommended(plan), nullptr);
}

TEST(TablePlan, ABudgetThatIsGivenIsKeptTo) {
  const auto plan = plan_tables(large(), 100 << 20);
  EXPECT_EQ(plan[2].placement.budget_bytes, 100 << 20);
  EXPECT_LT(plan[2].resident, 800 * kMB);
  EXPECT_FALSE(plan_tables(large(), 39'999)[2].fits);
}

TEST(TablePlan, AModelWithoutATableHasOnePlace) {
  TablePlanInput in = large();
  in.record = 0;
  const auto plan = plan_tables(in);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_TRUE(plan[0].fits);
}

}  // namespace
}  // namespace stem
