#include "inspect/table_diff.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"

namespace stem {
namespace {

constexpr TableShape kShape{20, 2, 6};

Table random_table(TableShape shape = kShape, DType dtype = DType::f32) {
  Table table = Table::in_memory(shape, dtype);
  Rng rng(5, 0);
  for (std::int64_t i = 0; i < shape.size(); ++i) {
    const auto v = static_cast<float>(rng.normal());
    if (dtype == DType::f32)
      table.writable_records().row<float>(0)[i] = v;
    else
      table.writable_records().row<double>(0)[i] = v;
  }
  return table;
}

float* row_of(Table& table, std::int64_t token, std::int64_t layer) {
  return table.writable_records().row<float>(token) + layer * kShape.width;
}

TEST(TableDiff, EqualTablesDoNotDiffer) {
  EXPECT_TRUE(diff_tables(random_table(), random_table()).empty());
  EXPECT_TRUE(diff_tables(random_table(), random_table(kShape, DType::f64)).empty());  // equal as f32
}

TEST(TableDiff, FindsOneChangedValue) {
  const Table a = random_table();
  Table b = random_table();
  row_of(b, 7, 1)[3] += 0.25f;
  const auto found = diff_tables(a, b);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].token, 7);
  EXPECT_EQ(found[0].layer, 1);
  EXPECT_NEAR(found[0].max_abs_difference, 0.25, 1e-6);
  EXPECT_LT(found[0].cosine, 1);
  EXPECT_GT(found[0].cosine, 0.5);
  EXPECT_FALSE(found[0].exchanged_with);
}

TEST(TableDiff, RecognisesAnExchangeOfRecords) {
  const Table a = random_table();
  Table b = random_table();
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    std::swap_ranges(row_of(b, 4, layer), row_of(b, 4, layer) + kShape.width, row_of(b, 15, layer));
  }
  row_of(b, 9, 0)[0] = 3;
  const auto found = diff_tables(a, b);
  ASSERT_EQ(found.size(), 5u);
  EXPECT_EQ(found[0].token, 4);
  EXPECT_EQ(found[1].layer, 1);
  EXPECT_EQ(found[0].exchanged_with, 15);
  EXPECT_EQ(found[1].exchanged_with, 15);
  EXPECT_FALSE(found[2].exchanged_with);
  EXPECT_EQ(found[3].exchanged_with, 4);
}

TEST(TableDiff, ACopyOrACycleIsNoExchange) {
  const Table a = random_table();
  Table copied = random_table();
  std::copy_n(row_of(copied, 2, 0), kShape.width, row_of(copied, 3, 0));
  auto found = diff_tables(a, copied);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_FALSE(found[0].exchanged_with);

  Table cycle = random_table();  // 1 <- 2 <- 3 <- 1
  std::swap_ranges(row_of(cycle, 1, 0), row_of(cycle, 1, 0) + kShape.width, row_of(cycle, 2, 0));
  std::swap_ranges(row_of(cycle, 2, 0), row_of(cycle, 2, 0) + kShape.width, row_of(cycle, 3, 0));
  found = diff_tables(a, cycle);
  ASSERT_EQ(found.size(), 3u);
  for (const RowDifference& d : found) EXPECT_FALSE(d.exchanged_with);
}

TEST(TableDiff, RowsOfDifferentLayersAreNotExchanged) {
  const Table a = random_table();
  Table b = random_table();
  std::swap_ranges(row_of(b, 1, 0), row_of(b, 1, 0) + kShape.width, row_of(b, 2, 1));
  for (const RowDifference& d : diff_tables(a, b)) EXPECT_FALSE(d.exchanged_with);
}

TEST(TableDiff, OddValues) {
  const Table a = random_table();
  Table b = random_table();
  row_of(b, 0, 0)[0] = NAN;
  std::fill_n(row_of(b, 1, 0), kShape.width, 0.0f);
  Table c = random_table(), d = random_table();
  row_of(c, 5, 0)[0] = 0.0f;
  row_of(d, 5, 0)[0] = -0.0f;
  const auto found = diff_tables(a, b);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_TRUE(std::isinf(found[0].max_abs_difference));
  EXPECT_TRUE(std::isnan(found[1].cosine));
  const auto zeros = diff_tables(c, d);
  ASSERT_EQ(zeros.size(), 1u);
  EXPECT_EQ(zeros[0].max_abs_difference, 0);
}

TEST(TableDiff, NamesBothTablesWhenShapesDiffer) {
  try {
    diff_tables(random_table(), random_table({20, 3, 6}), "out/atlas", "copy");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kMismatch);
    EXPECT_STREQ(error.what(),
                 "out/atlas has 20 tokens x 2 STEM layers x 6 values, copy has 20 x 3 x 6: only tables of "
                 "one shape can be "
                 "compared");
  }
}

}  // namespace
}  // namespace stem
