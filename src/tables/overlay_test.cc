#include "tables/overlay.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace stem {
namespace {

constexpr TableShape kShape{10, 2, 3};

// Value i of row (token, layer) is 100·token + 10·layer + i.
Table counting_table() {
  Table table = Table::in_memory(kShape, DType::f32);
  for (std::int64_t t = 0; t < kShape.vocab; ++t) {
    for (std::int64_t i = 0; i < kShape.record(); ++i)
      table.writable_records().row<float>(t)[i] =
          static_cast<float>(100 * t + 10 * (i / kShape.width) + i % kShape.width);
  }
  return table;
}

using Row = std::vector<float>;

// The values in force, or an empty row for "the table's own".
Row found(const Overlay& overlay, std::int32_t token, std::int64_t layer,
          const std::vector<std::int32_t>& before = {}) {
  const auto* row = overlay.find(token, layer, before);
  return row == nullptr ? Row{} : *row;
}

std::string failure(const OverlayRow& row) {
  try {
    Overlay().put(counting_table(), row);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kMismatch);
    return e.what();
  }
  return "no error";
}

TEST(Overlay, ReplacesOneAddressOnly) {
  Overlay overlay;
  EXPECT_TRUE(overlay.empty());
  overlay.put(counting_table(), {4, 1, {}, {1, 2, 3}});
  EXPECT_FALSE(overlay.empty());
  EXPECT_EQ(overlay.size(), 1u);
  EXPECT_EQ(found(overlay, 4, 1), (Row{1, 2, 3}));
  EXPECT_EQ(found(overlay, 4, 0), Row{});
  EXPECT_EQ(found(overlay, 5, 1), Row{});
}

TEST(Overlay, ALaterSetWins) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 0, {}, {1, 1, 1}});
  overlay.put(table, {4, 0, {}, {2, 2, 2}});
  EXPECT_EQ(found(overlay, 4, 0), (Row{2, 2, 2}));
  EXPECT_EQ(overlay.size(), 1u);
}

TEST(Overlay, AddSumsOntoTheTableAndOntoWhatIsInForce) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 1, {}, {1, 2, 3}, true});
  EXPECT_EQ(found(overlay, 4, 1), (Row{411, 413, 415}));
  overlay.put(table, {4, 1, {}, {10, 20, 30}, true});
  EXPECT_EQ(found(overlay, 4, 1), (Row{421, 433, 445}));
  overlay.put(table, {4, 1, {}, {0, 0, 1}});
  overlay.put(table, {4, 1, {}, {5, 5, 5}, true});
  EXPECT_EQ(found(overlay, 4, 1), (Row{5, 5, 6}));
}

TEST(Overlay, AddsInEitherOrderGiveTheSameSum) {
  const Table table = counting_table();
  const OverlayRow a{4, 0, {}, {1, 2, 3}, true}, b{4, 0, {}, {8, 4, 2}, true};
  Overlay ab, ba;
  ab.put(table, a);
  ab.put(table, b);
  ba.put(table, b);
  ba.put(table, a);
  EXPECT_EQ(found(ab, 4, 0), found(ba, 4, 0));
}

TEST(Overlay, TriggersMatchOnlyDirectlyBeforeTheToken) {
  Overlay overlay;
  overlay.put(counting_table(), {4, 0, {1, 2}, {9, 9, 9}});
  EXPECT_EQ(found(overlay, 4, 0, {1, 2}), (Row{9, 9, 9}));
  EXPECT_EQ(found(overlay, 4, 0, {7, 1, 2}), (Row{9, 9, 9}));
  EXPECT_EQ(found(overlay, 4, 0, {2}), Row{});
  EXPECT_EQ(found(overlay, 4, 0, {2, 1}), Row{});
  EXPECT_EQ(found(overlay, 4, 0, {1, 2, 3}), Row{});
  EXPECT_EQ(found(overlay, 4, 0), Row{});
}

TEST(Overlay, TheLongestMatchingTriggerWins) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 0, {1, 2}, {2, 2, 2}});
  overlay.put(table, {4, 0, {2}, {1, 1, 1}});
  overlay.put(table, {4, 0, {}, {0, 0, 0}});
  EXPECT_EQ(found(overlay, 4, 0, {1, 2}), (Row{2, 2, 2}));
  EXPECT_EQ(found(overlay, 4, 0, {3, 2}), (Row{1, 1, 1}));
  EXPECT_EQ(found(overlay, 4, 0, {2, 3}), (Row{0, 0, 0}));
}

TEST(Overlay, AnAddUnderATriggerSumsOntoTheRowThatItsContextReads) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 0, {}, {1, 1, 1}});
  overlay.put(table, {4, 0, {2}, {5, 6, 7}, true});
  EXPECT_EQ(found(overlay, 4, 0, {2}), (Row{6, 7, 8}));
  EXPECT_EQ(found(overlay, 4, 0, {3}), (Row{1, 1, 1}));
}

TEST(Overlay, RowsStayWhereTheyAreWhileOthersAreAdded) {
  const Table table = counting_table();
  Overlay overlay;
  overlay.put(table, {4, 0, {}, {1, 2, 3}});
  const auto* row = overlay.find(4, 0, {});
  for (std::int32_t i = 0; i < 200; ++i) overlay.put(table, {4, 0, {i}, {0, 0, 0}});
  EXPECT_EQ(overlay.find(4, 0, {}), row);
  EXPECT_EQ(overlay.size(), 201u);
}

TEST(Overlay, RefusesAddressesThatTheTableLacks) {
  EXPECT_EQ(failure({10, 0, {}, {1, 2, 3}}), "overlay row: token: expected an id below 10, found 10");
  EXPECT_EQ(failure({-1, 0, {}, {1, 2, 3}}), "overlay row: token: expected an id below 10, found -1");
  EXPECT_EQ(failure({4, 2, {}, {1, 2, 3}}),
            "overlay row of token 4: layer: expected a STEM layer below 2, found 2");
  EXPECT_EQ(failure({4, -1, {}, {1, 2, 3}}),
            "overlay row of token 4: layer: expected a STEM layer below 2, found -1");
  EXPECT_EQ(failure({4, 0, {}, {1, 2}}), "overlay row of token 4: expected 3 values, found 2");
}

}  // namespace
}  // namespace stem
