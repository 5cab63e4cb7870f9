#include "edit/reference_rows.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "core/error.h"
#include "edit/surgery.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

constexpr std::int64_t kVocab = 10, kLayers = 2, kFfn = 6;

ModelConfig shape(FfnVariant variant = FfnVariant::stem_additive) {
  ModelConfig c;
  c.vocab = kVocab;
  c.width = 8;
  c.layers = 4;
  c.heads = c.kv_heads = 2;
  c.head_width = 4;
  c.ffn = kFfn;
  c.variant = variant;
  c.stem_layers = {0, 3};
  return c;
}

// ū of token t in STEM layer s is all 10·t + s; token 4 never occurs.
class ReferenceRowsTest : public ::testing::Test {
 protected:
  void SetUp() override { write({3, 2, 1, 5, 0, 7, 1, 1, 1, 1}); }

  void write(std::vector<std::int64_t> occurrences, std::int64_t ffn = kFfn) const {
    ReferenceRowsWriter writer(dir, {kVocab, kLayers, ffn}, std::move(occurrences));
    const Tensor records(DType::bf16, 5, kLayers * ffn);
    for (std::int64_t first = 0; first < kVocab; first += 5) {  // in pieces
      for (std::int64_t r = 0; r < 5; ++r) {
        for (std::int64_t i = 0; i < kLayers * ffn; ++i)
          records.view.row<bf16>(r)[i] = bf16(static_cast<float>(10 * (first + r) + i / ffn));
      }
      writer.write(records);
    }
    writer.close();
  }
  std::string failure(const ModelConfig& c, ErrorCode code) const {
    try {
      open_reference_rows(dir, c);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      return e.what();
    }
    return "no error";
  }
  std::string path() const { return (dir / kReferenceFile).string(); }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

TEST_F(ReferenceRowsTest, ComeBackAsTheyWereWritten) {
  const auto rows = open_reference_rows(dir, shape());
  ASSERT_TRUE(rows.has_value());
  EXPECT_EQ(rows->occurrences, (std::vector<std::int64_t>{3, 2, 1, 5, 0, 7, 1, 1, 1, 1}));
  std::vector<float> row(kFfn);
  rows->means.read_row(7, 1, row);
  EXPECT_EQ(row, std::vector<float>(kFfn, 71.0f));
  fs::remove(path());
  EXPECT_FALSE(open_reference_rows(dir, shape()).has_value());
}

TEST_F(ReferenceRowsTest, RefuseAModelThatTheyDoNotFit) {
  EXPECT_EQ(failure(shape(FfnVariant::stem), ErrorCode::kMismatch),
            path() + ": expected ffn_variant stem_additive beside reference rows, found stem");
  ModelConfig wider = shape();
  wider.ffn = 8;
  EXPECT_NE(failure(wider, ErrorCode::kMismatch).find("[10, 2, 6]"), std::string::npos);
  write({3, 2, -1, 5, 0, 7, 1, 1, 1, 1});
  EXPECT_EQ(failure(shape(), ErrorCode::kFormat),
            path() + ": occurrences: expected no negative count, found -1 at token 2");
  fs::resize_file(path(), fs::file_size(path()) - 1);
  EXPECT_NE(failure(shape(), ErrorCode::kFormat), "no error");
}

TEST_F(ReferenceRowsTest, ASwapAddsTheDifferenceOfTwo) {
  const auto rows = open_reference_rows(dir, shape());
  // Rows of zeros: what is not there is what the difference is added to.
  const Table zeros = Table::absent({kVocab, kLayers, kFfn});
  const std::int32_t donors[] = {6, 8};
  EXPECT_EQ(swapped_record({zeros, &*rows}, 2, std::span(donors, 1)), std::vector<float>(12, 40.0f));
  EXPECT_EQ(swapped_record({zeros, &*rows}, 2, donors), std::vector<float>(12, 50.0f));
  // Rows that were trained: the slot keeps its own, since ū holds both.
  Table trained = Table::in_memory(zeros.shape(), DType::f32);
  for (std::int64_t i = 0; i < 12; ++i) trained.writable_records().row<float>(2)[i] = static_cast<float>(i);
  const std::vector<float> record = swapped_record({trained, &*rows}, 2, donors);
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(record[i], 50.0f + static_cast<float>(i));
  // Without a reference the mean of the donors' own rows.
  EXPECT_EQ(swapped_record({trained}, 3, std::vector<std::int32_t>{2, 1})[11], 5.5f);
}

}  // namespace
}  // namespace stem
