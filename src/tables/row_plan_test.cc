#include "tables/row_plan.h"

#include <gtest/gtest.h>

namespace stem {
namespace {

constexpr TableShape kShape{10, 2, 3};

Table counting_table() {
  Table table = Table::in_memory(kShape, DType::f32);
  for (std::int64_t i = 0; i < kShape.size(); ++i)
    table.writable_records().row<float>(0)[i] = static_cast<float>(i);
  return table;
}

// A batch of whole segments of the given lengths.
struct Ids {
  std::vector<std::int32_t> tokens, positions;
  std::vector<Segment> segments;

  Ids(std::vector<std::int32_t> ids, const std::vector<std::int64_t>& lengths) : tokens(std::move(ids)) {
    std::int64_t row = 0;
    for (const std::int64_t n : lengths) {
      segments.push_back({row, n, row, n});
      for (std::int64_t i = 0; i < n; ++i) positions.push_back(static_cast<std::int32_t>(i));
      row += n;
    }
  }
  TokenBatch batch() const { return {tokens, positions, segments, {}}; }
};

const void* read_at(const RowPlan& plan, std::int64_t layer, std::int64_t position) {
  return plan.acquire(layer).at[position].data;
}

TEST(RowPlan, EveryPositionReadsItsTokensRowInEveryLayer) {
  const Table table = counting_table();
  const Ids ids({4, 9, 4}, {3});
  const RowPlan plan(table, ids.batch());
  for (std::int64_t s = 0; s < kShape.layers; ++s) {
    const RowPointers rows = plan.acquire(s);
    EXPECT_EQ(rows.rows, 3);
    EXPECT_EQ(rows.cols, kShape.width);
    for (std::size_t i = 0; i < ids.tokens.size(); ++i) {
      EXPECT_EQ(rows.at[i].data, table.row(ids.tokens[i], s).data);
      EXPECT_EQ(rows.at[i].scale, 1.0f);
    }
  }
}

TEST(RowPlan, AnAbsentTableIsZeroRows) {
  const Ids ids({0, 9}, {2});
  const Table absent = Table::absent(kShape);
  EXPECT_FALSE(absent.present());
  const RowPlan plan(absent, ids.batch());
  plan.prefetch();
  for (std::int64_t s = 0; s < kShape.layers; ++s) {
    const RowPointers rows = plan.acquire(s);
    EXPECT_EQ(rows.rows, 2);
    EXPECT_EQ(rows.cols, 3);
    EXPECT_EQ(rows.at[0].data, nullptr);
    EXPECT_EQ(rows.at[1].data, nullptr);
  }
}

TEST(RowPlan, OverlayRowsTakeThePlaceOfTheTables) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 1, {}, {1, 2, 3}});
  const Ids ids({4, 9, 4}, {3});
  const RowPlan plan(table, ids.batch(), &overlay);
  const void* edited = overlay.find(4, 1, {})->data();
  EXPECT_EQ(read_at(plan, 1, 0), edited);
  EXPECT_EQ(read_at(plan, 1, 2), edited);
  EXPECT_EQ(read_at(plan, 1, 1), table.row(9, 1).data);
  EXPECT_EQ(read_at(plan, 0, 0), table.row(4, 0).data);
}

TEST(RowPlan, TriggersDoNotReachAcrossSegments) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 0, {2}, {1, 2, 3}});
  const Ids joined({2, 4}, {2}), cut({2, 4}, {1, 1});
  EXPECT_EQ(read_at(RowPlan(table, joined.batch(), &overlay), 0, 1),
            overlay.find(4, 0, std::vector{2})->data());
  EXPECT_EQ(read_at(RowPlan(table, cut.batch(), &overlay), 0, 1), table.row(4, 0).data);
}

TEST(RowPlan, TriggersLookAtCachedTokensThroughContexts) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 0, {2, 3}, {1, 2, 3}});
  const std::vector<std::int32_t> whole{2, 3, 4}, now{4}, positions{2};
  const Segment segment{0, 1, 0, 3};
  const std::int32_t* context = whole.data();
  const TokenBatch batch{now, positions, {&segment, 1}, {&context, 1}};
  const RowPlan plan(table, batch, &overlay);
  EXPECT_EQ(read_at(plan, 0, 0), overlay.find(4, 0, std::vector{2, 3})->data());
}

TEST(RowPlan, RedirectsOnePosition) {
  const Table table = counting_table();
  const Ids ids({4, 4}, {2});
  RowPlan plan(table, ids.batch());
  const std::vector<float> values{7, 8, 9};
  plan.redirect(1, 0, values.data());
  EXPECT_EQ(read_at(plan, 0, 0), table.row(4, 0).data);
  EXPECT_EQ(read_at(plan, 0, 1), values.data());
  EXPECT_EQ(read_at(plan, 1, 1), table.row(4, 1).data);
  plan.redirect_record(0, 9);
  for (std::int64_t s = 0; s < kShape.layers; ++s) EXPECT_EQ(read_at(plan, s, 0), table.row(9, s).data);
  EXPECT_EQ(read_at(plan, 0, 1), values.data());
}

}  // namespace
}  // namespace stem
