#include "io/digest.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/file.h"

namespace stem {
namespace {

TEST(DigestTest, KnownAnswers) {  // FIPS 180-4 examples
  EXPECT_EQ(to_hex(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(to_hex(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 hash;
  hash.update("a");
  hash.update("bc");
  EXPECT_EQ(hash.finish(), sha256("abc"));
  hash.update("abc");  // as new
  EXPECT_EQ(hash.finish(), sha256("abc"));
}

TEST(DigestTest, OfAFile) {
  const auto path = std::filesystem::temp_directory_path() / ("stem-digest-" + uuid_text(random_uuid()));
  const std::string content((1 << 20) + 17, 'x');  // more than one piece
  write_file_atomic(path, content);
  std::uint64_t bytes = 0;
  EXPECT_EQ(sha256_file(path, &bytes), sha256(content));
  EXPECT_EQ(bytes, content.size());
  std::filesystem::remove(path);
}

TEST(DigestTest, Hex) {
  Digest digest{};
  const std::string text = to_hex(sha256("abc"));
  EXPECT_TRUE(from_hex(text, &digest));
  EXPECT_EQ(digest, sha256("abc"));
  EXPECT_FALSE(from_hex(text.substr(1), &digest));
  EXPECT_FALSE(from_hex(text.substr(1) + "B", &digest));
  EXPECT_FALSE(from_hex(text.substr(1) + "g", &digest));
}

TEST(DigestTest, Uuids) {
  const Uuid uuid = random_uuid();
  EXPECT_NE(uuid, random_uuid());
  const std::string text = uuid_text(uuid);
  EXPECT_EQ(text[14], '4');
  EXPECT_NE(std::string("89ab").find(text[19]), std::string::npos);
  Uuid parsed{};
  EXPECT_TRUE(parse_uuid(text, &parsed));
  EXPECT_EQ(parsed, uuid);
  EXPECT_FALSE(parse_uuid(text.substr(1), &parsed));
  EXPECT_FALSE(parse_uuid(std::string(36, '0'), &parsed));
}

TEST(DigestTest, RowLeafIsTheDocumentedLayout) {
  Uuid model{};
  for (std::size_t i = 0; i < model.size(); ++i) model[i] = static_cast<std::uint8_t>(i);
  std::string bytes(1, '\0');
  bytes += "stem-row-v1";
  for (int i = 0; i < 16; ++i) bytes += static_cast<char>(i);
  bytes += std::string("\x02\x01\x00\x00", 4) + std::string("\x04\x03\x00\x00", 4) + '\x01' + "row";
  EXPECT_EQ(row_leaf(model, 0x102, 0x304, DType::bf16, "row"), sha256(bytes));
  EXPECT_NE(row_leaf(model, 0x304, 0x102, DType::bf16, "row"), sha256(bytes));
}

}  // namespace
}  // namespace stem
