#include "data/token_shard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

class ShardOnDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    shard.append(0, {4, 5, 6});
    shard.append(0, {});
    shard.append(0, {9});
    shard.tokenizer_digest = "abc";
    save_shard(path, shard);
  }

  std::string failure(std::int64_t vocab = 10, const std::string& digest = "abc",
                      ErrorCode code = ErrorCode::kFormat) const {
    try {
      load_shard(path, vocab, digest);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      const std::string what = e.what();
      EXPECT_TRUE(what.starts_with(path.string() + ": ")) << what;
      return what.substr(path.string().size() + 2);
    }
    return "no error";
  }
  void write(const std::vector<std::int64_t>& documents, const std::vector<std::int32_t>& tokens) const {
    SafetensorsWriter writer(path,
                             {{"documents", DType::i64, {static_cast<std::int64_t>(documents.size())}},
                              {"tokens", DType::i32, {static_cast<std::int64_t>(tokens.size())}}},
                             {{"tokenizer_sha256", "abc"}});
    writer.write("documents", documents.data(), documents.size() * 8);
    writer.write("tokens", tokens.data(), tokens.size() * 4);
    writer.close();
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  const fs::path path = dir / "train.tokens";
  TokenShard shard;
};

TEST(TokenShard, DocumentsLieOneBehindTheOther) {
  TokenShard shard;
  EXPECT_EQ(shard.document_count(), 0);
  shard.append(7, {1, 2});
  shard.append(7, {});
  EXPECT_EQ(shard.tokens, (std::vector<std::int32_t>{7, 1, 2, 7}));
  EXPECT_EQ(shard.documents, (std::vector<std::int64_t>{0, 3, 4}));
}

TEST_F(ShardOnDisk, AChangedTokenIsNoticed) {
  std::string bytes = read_file(path);
  const std::string four_five("\x04\0\0\0\x05\0\0\0", 8);
  const std::size_t at = bytes.rfind(four_five);
  ASSERT_NE(at, std::string::npos);
  bytes[at] = '\x07';  // another id of the same vocabulary
  write_file_atomic(path, bytes);
  const std::string told = failure();
  EXPECT_TRUE(told.starts_with("content_sha256: expected ")) << told;
}

TEST_F(ShardOnDisk, RoundTrip) {
  const TokenShard back = load_shard(path, 10, "abc");
  EXPECT_EQ(back.tokens, shard.tokens);
  EXPECT_EQ(back.documents, shard.documents);
  EXPECT_EQ(back.tokenizer_digest, "abc");
  EXPECT_EQ(load_shard(path, 10, "").tokens, shard.tokens);  // digest not asked for
  EXPECT_FALSE(fs::exists(dir / "train.tokens.partial"));
}

TEST_F(ShardOnDisk, ALossMaskMakesTheRoundTrip) {
  EXPECT_TRUE(load_shard(path, 10, "abc").loss_mask.empty());
  shard.append(0, {1, 2, 3}, {0, 1, 1});
  shard.append(0, {4});
  const std::vector<std::uint8_t> expected{1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1};
  EXPECT_EQ(shard.loss_mask, expected);
  save_shard(path, shard);
  const TokenShard back = load_shard(path, 10, "abc");
  EXPECT_EQ(back.loss_mask, expected);
  EXPECT_TRUE(back.is_target(6));
  EXPECT_FALSE(back.is_target(7));
}

TEST_F(ShardOnDisk, AWrongLossMaskIsNamed) {
  shard.loss_mask = {1, 0, 1, 0, 2, 1, 1};
  save_shard(path, shard);
  EXPECT_EQ(failure(), "loss_mask[4]: expected 0 or 1, found 2");
  const auto write_mask = [&](DType dtype, std::int64_t count) {
    SafetensorsWriter writer(
        path, {{"documents", DType::i64, {2}}, {"tokens", DType::i32, {2}}, {"loss_mask", dtype, {count}}},
        {{"tokenizer_sha256", "abc"}});
    const std::int64_t documents[] = {0, 2};
    const std::int32_t zeros[] = {0, 0, 0};
    writer.write("documents", documents, 16);
    writer.write("tokens", zeros, 8);
    writer.write("loss_mask", zeros, static_cast<std::uint64_t>(count * size_of(dtype)));
    writer.close();
  };
  write_mask(DType::u8, 3);
  EXPECT_EQ(failure(), "loss_mask: expected one value per token, 2, found 3");
  write_mask(DType::i32, 2);
  EXPECT_EQ(failure(), "loss_mask: expected one dimension of U8, found I32 [2]");
}

TEST_F(ShardOnDisk, AnIdOutsideTheVocabularyIsNamed) {
  EXPECT_EQ(failure(9, "abc", ErrorCode::kMismatch), "tokens[6]: expected an id in [0, 9), found 9");
  write({0, 2}, {3, -1});
  EXPECT_EQ(failure(10, "abc", ErrorCode::kMismatch), "tokens[1]: expected an id in [0, 10), found -1");
}

TEST_F(ShardOnDisk, AnotherTokenizersShardIsRefused) {
  EXPECT_EQ(failure(10, "def", ErrorCode::kMismatch),
            "tokenizer_sha256: expected def (this model's tokenizer), found abc: tokenize the text again");
}

TEST_F(ShardOnDisk, OffsetsMustAscendAndCoverTheTokens) {
  const std::string wrong = "documents: expected ascending offsets from 0 to 4 (at least one document)";
  const std::vector<std::vector<std::int64_t>> cases{{},           {0},          {0, 3},  {1, 4},    {0, 5},
                                                     {0, 2, 2, 4}, {0, 3, 2, 4}, {-1, 4}, {0, -4, 4}};
  for (const auto& documents : cases) {
    write(documents, {1, 2, 3, 4});
    EXPECT_EQ(failure(), wrong);
  }
  write({0, 4}, {1, 2, 3, 4});
  EXPECT_EQ(failure(), "no error");
  write({0, 0}, {});
  EXPECT_NE(failure().find("documents: expected ascending"), std::string::npos);
}

TEST_F(ShardOnDisk, TensorsOfAnotherTypeAreRefused) {
  SafetensorsWriter writer(path, {{"documents", DType::i32, {2}}, {"tokens", DType::i32, {2}}},
                           {{"tokenizer_sha256", "abc"}});
  const std::int32_t two[] = {0, 2};
  writer.write("documents", two, 8);
  writer.write("tokens", two, 8);
  writer.close();
  EXPECT_EQ(failure(), "documents: expected one dimension of I64, found I32 [2]");
}

TEST_F(ShardOnDisk, TruncationIsAnError) {
  const std::string whole = read_file(path);
  for (std::size_t part = 0; part < whole.size(); part += 7) {
    write_file_atomic(path, whole.substr(0, part));
    EXPECT_NE(failure(), "no error") << part;
  }
}

TEST_F(ShardOnDisk, MissingIsNotFound) {
  fs::remove(path);
  EXPECT_NE(failure(10, "abc", ErrorCode::kNotFound).find("No such file"), std::string::npos);
}

}  // namespace
}  // namespace stem
