#include "tables/table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/rng.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

constexpr TableShape kShape{50, 3, 8};

Table random_table(DType dtype = DType::f32) {
  Table table = Table::in_memory(kShape, dtype);
  const Rng rng(3, 0);
  for (std::int64_t i = 0; i < kShape.size(); ++i) {
    const double v = rng.normal_at(static_cast<std::uint64_t>(i));
    if (dtype == DType::f64)
      table.writable_records().row<double>(0)[i] = v;
    else
      table.writable_records().row<float>(0)[i] = static_cast<float>(v);
  }
  return table;
}

class TableOnDisk : public ::testing::Test {
 protected:
  fs::path write(const TableShape& shape, DType dtype, const void* data, const char* name = "stem.table") {
    const fs::path path = dir / "table.safetensors";
    SafetensorsWriter writer(path, {{name, dtype, {shape.vocab, shape.layers, shape.width}}}, {}, 4096);
    writer.write(name, data, static_cast<std::uint64_t>(shape.size() * size_of(dtype)));
    writer.close();
    return path;
  }
  std::string failure(const fs::path& path, const TableShape& expected) {
    try {
      Table::mapped(Safetensors::open(path), expected);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

TEST(Table, StartsAsZerosAndLaysRecordsTokenMajor) {
  Table table = Table::in_memory(kShape, DType::f32);
  EXPECT_TRUE(table.present());
  EXPECT_TRUE(table.writable());
  const auto* base = static_cast<const float*>(table.record(0));
  for (std::int64_t i = 0; i < kShape.size(); ++i) ASSERT_EQ(base[i], 0.0f);
  EXPECT_EQ(table.record(7), base + 7 * 3 * 8);
  EXPECT_EQ(table.row(7, 2).data, base + 7 * 3 * 8 + 2 * 8);
  EXPECT_EQ(table.records().rows, 50);
  EXPECT_EQ(table.records().cols, 24);
}

TEST(Table, ReadsRowsOfEveryTypeAsF32) {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Table table = random_table(dtype);
    std::vector<float> row(8);
    table.read_row(11, 1, row);
    for (std::size_t i = 0; i < row.size(); ++i) {
      const auto at = static_cast<std::uint64_t>(11 * 24 + 8) + i;
      EXPECT_EQ(row[i], static_cast<float>(Rng(3, 0).normal_at(at)));
    }
  }
}

TEST(Table, AnAbsentTableHasNoRecords) {
  const Table absent;
  EXPECT_FALSE(absent.present());
  EXPECT_FALSE(absent.writable());
  EXPECT_EQ(absent.records().data, nullptr);
}

TEST_F(TableOnDisk, AMappedTableEqualsTheOneInMemory) {
  const Table memory = random_table();
  const fs::path path = write(kShape, DType::f32, memory.record(0));
  const Table mapped = Table::mapped(Safetensors::open(path), kShape);
  EXPECT_TRUE(mapped.present());
  EXPECT_FALSE(mapped.writable());
  EXPECT_EQ(mapped.dtype(), DType::f32);
  EXPECT_EQ(mapped.shape(), kShape);
  EXPECT_EQ(std::memcmp(mapped.record(0), memory.record(0), static_cast<std::size_t>(kShape.size()) * 4), 0);
  const std::vector<std::int32_t> tokens{0, 49, 7};
  mapped.prefetch(tokens);  // a hint: nothing to see, nothing may break, the last record included
  std::vector<float> a(8), b(8);
  for (const std::int64_t token : {0, 7, 49}) {
    for (std::int64_t s = 0; s < 3; ++s) {
      mapped.read_row(token, s, a);
      memory.read_row(token, s, b);
      EXPECT_EQ(a, b);
    }
  }
}

TEST_F(TableOnDisk, AMappedTableOutlivesTheFileObjectAndTheName) {
  const Table memory = random_table();
  const fs::path path = write(kShape, DType::f32, memory.record(0));
  const Table mapped = Table::mapped(Safetensors::open(path), kShape);
  fs::remove(path);
  EXPECT_EQ(std::memcmp(mapped.record(49), memory.record(49), 24 * 4), 0);
}

TEST_F(TableOnDisk, Bf16RowsAreMapped) {
  std::vector<bf16> values(static_cast<std::size_t>(kShape.size()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = bf16(static_cast<float>(i) * 0.5f);
  const Table mapped = Table::mapped(Safetensors::open(write(kShape, DType::bf16, values.data())), kShape);
  EXPECT_EQ(mapped.dtype(), DType::bf16);
  EXPECT_EQ(mapped.row(3, 1).dtype, DType::bf16);
  std::vector<float> row(8);
  mapped.read_row(3, 1, row);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(row[i], static_cast<float>(values[3 * 24 + 8 + i]));
}

TEST_F(TableOnDisk, AnotherShapeIsRefusedByName) {
  const Table memory = random_table();
  const fs::path path = write(kShape, DType::f32, memory.record(0));
  EXPECT_EQ(failure(path, kShape), "no error");
  EXPECT_EQ(failure(path, {50, 2, 8}),
            path.string() +
                ": stem.table: expected F32 or BF16 [50, 2, 8] (from config.json), found F32 [50, 3, 8]");
  EXPECT_NE(failure(path, {51, 3, 8}).find("[51, 3, 8]"), std::string::npos);
  const fs::path other = write(kShape, DType::i32, memory.record(0));
  EXPECT_NE(failure(other, kShape).find("found I32"), std::string::npos);
  const fs::path unnamed = write(kShape, DType::f32, memory.record(0), "table");
  EXPECT_NE(failure(unnamed, kShape).find("stem.table"), std::string::npos);
}

}  // namespace
}  // namespace stem
