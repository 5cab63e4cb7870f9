// One table in every placement: the rows that plans give, and what happens when the file is damaged under
// them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/rng.h"
#include "io/temporary_folder.h"
#include "tables/record_error.h"
#include "tables/row_plan.h"

namespace stem {
namespace {
namespace fs = std::filesystem;
using Kind = TablePlacement::Kind;

constexpr TableShape kShape{60, 2, 700};  // a record of 2,800 bytes in bf16: blocks and records drift apart

struct Ids {
  std::vector<std::int32_t> tokens, positions;
  Segment segment;
  explicit Ids(std::vector<std::int32_t> ids) : tokens(std::move(ids)) {
    const auto n = static_cast<std::int64_t>(tokens.size());
    segment = {0, n, 0, n};
    for (std::int64_t i = 0; i < n; ++i) positions.push_back(static_cast<std::int32_t>(i));
  }
  TokenBatch batch() const { return {tokens, positions, {&segment, 1}, {}}; }
};

class Placed : public ::testing::Test {
 protected:
  void SetUp() override {
    const Rng rng(5, 0);
    values.resize(static_cast<std::size_t>(kShape.size()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = bf16(static_cast<float>(rng.normal_at(i)));
    write();
  }
  fs::path path() const { return dir / "table.safetensors"; }
  void write() {
    SafetensorsWriter writer(
        path(), {{"stem.table", DType::bf16, {kShape.vocab, kShape.layers, kShape.width}}}, {}, 4096);
    writer.write("stem.table", values.data(), values.size() * sizeof(bf16));
    writer.close();
  }
  Table open(const TablePlacement& placement, RowVerifier verifier = {},
             ReadPath read = ReadPath::automatic) {
    TableOptions options;
    options.placement = placement;
    options.verifier = std::move(verifier);
    options.read.path = read;
    return Table::open(Safetensors::open(path()), kShape, options);
  }
  const bf16* expected(std::int32_t token, std::int64_t layer) const {
    return values.data() + token * kShape.record() + layer * kShape.width;
  }
  bool reads(const RowPlan& plan, std::int64_t position, std::int64_t layer, std::int32_t token) {
    const RowPointer row = plan.acquire(layer).at[position];
    return row.dtype == DType::bf16 &&
           std::memcmp(row.data, expected(token, layer), static_cast<std::size_t>(kShape.width) * 2) == 0;
  }
  // Cuts the file behind the first `records` records.
  void cut(std::int64_t records) {
    const auto data = fs::file_size(path()) - values.size() * sizeof(bf16);
    fs::resize_file(path(), data + static_cast<std::uint64_t>(records * kShape.record()) * sizeof(bf16));
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  std::vector<bf16> values;
  const std::vector<TablePlacement> all{
      {Kind::memory, 0}, {Kind::mapped, 0}, {Kind::disk, 2800}, {Kind::disk, 1 << 20}};
};

TEST_F(Placed, EveryPlacementGivesTheSameRows) {
  for (const TablePlacement& placement : all) {
    const Table table = open(placement);
    EXPECT_TRUE(table.present());
    EXPECT_FALSE(table.writable());
    EXPECT_EQ(table.dtype(), DType::bf16);
    EXPECT_EQ(table.placement(), placement);
    EXPECT_EQ(table.store() != nullptr, placement.kind == Kind::disk);
    for (int round = 0; round < 3; ++round) {
      const Ids ids({4, 59, 4, 0, 31, 30});
      const RowPlan plan(table, ids.batch());
      plan.prefetch();
      for (std::int64_t s = kShape.layers; s-- > 0;) {
        for (std::size_t i = 0; i < ids.tokens.size(); ++i)
          EXPECT_TRUE(reads(plan, static_cast<std::int64_t>(i), s, ids.tokens[i]))
              << placement_text(placement);
      }
      plan.verify();
    }
    std::vector<float> row(static_cast<std::size_t>(kShape.width));
    table.read_row(31, 1, row);
    EXPECT_EQ(row[13], static_cast<float>(expected(31, 1)[13]));
    std::vector<bf16> stored(row.size());
    table.copy_row(59, 0, stored.data());
    EXPECT_EQ(std::memcmp(stored.data(), expected(59, 0), stored.size() * 2), 0);
  }
}

TEST_F(Placed, OverlaysAndRedirectionsWinEverywhere) {
  for (const TablePlacement& placement : all) {
    const Table table = open(placement);
    Overlay overlay;
    const std::vector<float> row(static_cast<std::size_t>(kShape.width), 2.0f);
    overlay.put(table, {4, 1, {}, row});
    overlay.put(table, {9, 0, {}, row});
    overlay.put(table, {9, 1, {}, row});
    overlay.put(table, {7, 0, {}, row, true});
    const Ids ids({4, 9, 4, 7, 11});
    RowPlan plan(table, ids.batch(), &overlay);
    EXPECT_EQ(plan.acquire(1).at[0].data, overlay.find(4, 1, {})->data());
    EXPECT_EQ(plan.acquire(0).at[1].data, overlay.find(9, 0, {})->data());
    EXPECT_TRUE(reads(plan, 0, 0, 4));
    EXPECT_TRUE(reads(plan, 3, 1, 7));
    EXPECT_EQ((*overlay.find(7, 0, {}))[3], static_cast<float>(expected(7, 0)[3]) + 2.0f);
    plan.redirect(4, 0, row.data());
    plan.redirect_record(2, 33);  // after rows were acquired
    EXPECT_EQ(plan.acquire(0).at[4].data, row.data());
    EXPECT_TRUE(reads(plan, 4, 1, 11));
    for (std::int64_t s = 0; s < kShape.layers; ++s) EXPECT_TRUE(reads(plan, 2, s, 33));
    EXPECT_TRUE(reads(plan, 0, 0, 4));
  }
}

TEST_F(Placed, ARecordThatIsReplacedWholeIsNotRead) {
  const Table table = open({Kind::disk, 1 << 20});
  Overlay overlay;
  const std::vector<float> row(static_cast<std::size_t>(kShape.width));
  for (std::int32_t s = 0; s < 2; ++s) overlay.put(table, {4, s, {}, row});
  const Ids ids({4, 4});
  const RowPlan plan(table, ids.batch(), &overlay);
  EXPECT_EQ(plan.acquire(1).at[1].data, overlay.find(4, 1, {})->data());
  EXPECT_EQ(table.store()->stats().reads, 0);
}

TEST_F(Placed, ACutFileFailsTheBatchThatNeedsItAndNoOther) {
  for (const ReadPath read : {ReadPath::automatic, ReadPath::threads}) {
    for (const TablePlacement placement :
         {TablePlacement{Kind::mapped, 0}, TablePlacement{Kind::disk, 1 << 20}}) {
      write();
      const Table table = open(placement, {}, read);
      cut(30);
      const Ids hurt({4, 40, 29, 30, 40}), whole({4, 29, 0});
      const auto run = [&](const Ids& ids) {
        const RowPlan plan(table, ids.batch());
        for (std::int64_t s = 0; s < kShape.layers; ++s) {
          const RowPointers rows = plan.acquire(s);
          for (std::int64_t i = 0; i < rows.rows; ++i) {  // what kernels do: touch every value
            const auto* const v = static_cast<const bf16*>(rows.at[i].data);
            for (std::int64_t j = 0; j < rows.cols; ++j) {
              const volatile std::uint16_t bits = v[j].bits;
              (void)bits;
            }
          }
        }
        plan.verify();
      };
      try {
        run(hurt);
        ADD_FAILURE() << placement_text(placement);
      } catch (const RecordError& e) {
        EXPECT_EQ(e.code(), ErrorCode::kIo);
        EXPECT_EQ(e.tokens(), (std::vector<std::int32_t>{30, 40}));
        EXPECT_EQ(e.positions(), (std::vector<std::int64_t>{1, 3, 4}));
        EXPECT_NE(std::string(e.what()).find(path().string() + ": record of token 30: expected 2800 bytes"),
                  std::string::npos)
            << e.what();
      }
      EXPECT_NO_THROW(run(whole));
      std::vector<float> row(static_cast<std::size_t>(kShape.width));
      EXPECT_THROW(table.read_row(41, 0, row), RecordError);
      EXPECT_NO_THROW(table.read_row(5, 0, row));
    }
  }
}

TEST_F(Placed, ACutMappedTableIsNotCopiedOutSilently) {
  const Table table = open({Kind::mapped, 0});
  EXPECT_NO_THROW(table.verify());
  cut(59);
  EXPECT_THROW(table.verify(), RecordError);
}

TEST_F(Placed, AFileCutBeforeItIsOpenedIsRefused) {
  const Safetensors file = Safetensors::open(path());
  cut(59);
  for (const TablePlacement& placement : all) {
    if (placement.kind == Kind::mapped) continue;
    TableOptions options;
    options.placement = placement;
    EXPECT_THROW(Table::open(file, kShape, options), Error) << placement_text(placement);
  }
}

TEST_F(Placed, AVerifierSeesEveryRecordBeforeItIsUsed) {
  for (const TablePlacement& placement : all) {
    std::int64_t seen = 0;
    const auto verifier = [&](std::int32_t token, std::span<const std::byte> bytes) {
      ++seen;
      EXPECT_EQ(std::memcmp(bytes.data(), expected(token, 0), bytes.size()), 0);
      if (token == 50) fail(ErrorCode::kIntegrity, "row of token 50 was changed");
    };
    if (placement.kind == Kind::memory) {
      EXPECT_THROW(open(placement, verifier), Error);
      EXPECT_EQ(seen, 51);
      continue;
    }
    const Table table = open(placement, verifier);
    EXPECT_EQ(table.placement(), placement);
    const Ids ids({4, 9, 4}), bad({4, 50});
    const RowPlan plan(table, ids.batch());
    EXPECT_TRUE(reads(plan, 1, 1, 9));
    EXPECT_EQ(seen, 2);
    try {
      RowPlan(table, bad.batch()).acquire(0);
      ADD_FAILURE();
    } catch (const RecordError& e) {
      EXPECT_EQ(e.code(), ErrorCode::kIntegrity);
      EXPECT_EQ(e.positions(), std::vector<std::int64_t>{1});
    }
  }
}

TEST_F(Placed, ABudgetBelowOneRecordIsRefused) {
  try {
    open({Kind::disk, 2799});
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(e.what()).find("expected at least 2800 bytes, one record, found 2799"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace stem
