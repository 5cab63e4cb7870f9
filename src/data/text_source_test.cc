#include "data/text_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "core/error.h"
#include "io/temporary_folder.h"
#include "text/bpe_trainer.h"

namespace stem {
namespace {
namespace fs = std::filesystem;
using Documents = std::vector<std::string>;

class TextSource : public ::testing::Test {
 protected:
  fs::path put(const std::string& name, const std::string& content) const {
    fs::create_directories((dir / name).parent_path());
    std::ofstream(dir / name, std::ios::binary) << content;
    return dir / name;
  }
  // The message behind "path: ".
  std::string failure(const fs::path& path, ErrorCode code = ErrorCode::kFormat,
                      const TextOptions& options = {}) const {
    try {
      read_documents(path, options);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      const std::string what = e.what();
      EXPECT_TRUE(what.starts_with(path.string() + ": ")) << what;
      EXPECT_EQ(what.find('\n'), std::string::npos);
      return what.substr(path.string().size() + 2);
    }
    return "no error";
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

TEST_F(TextSource, OneFileIsOneDocumentOrSeveralBetweenEndOfText) {
  EXPECT_EQ(read_documents(put("a.txt", "one\ntwo\n")), (Documents{"one\ntwo\n"}));
  EXPECT_EQ(read_documents(put("b.txt", "one<|endoftext|>two<|endoftext|> \n<|endoftext|>three")),
            (Documents{"one", "two", "three"}));
}

TEST_F(TextSource, JsonlIsADocumentALine) {
  const auto path = put("a.jsonl", "{\"text\": \"one\"}\n\n{\"id\": 3, \"text\": \"t\\u00e9\\n\"}");
  EXPECT_EQ(read_documents(path), (Documents{"one", "té\n"}));
  TextOptions other;
  other.jsonl_field = "body";
  EXPECT_EQ(read_documents(put("b.jsonl", "{\"body\": \"x\"}\n"), other), (Documents{"x"}));
}

TEST_F(TextSource, AFolderGivesItsTextsInOrderOfName) {
  put("f/b.txt", "b");
  put("f/a.md", "a");
  put("f/sub/c.jsonl", "{\"text\": \"c\"}");
  put("f/picture.png", std::string("\0\0", 2));
  EXPECT_EQ(read_documents(dir / "f"), (Documents{"a", "b", "c"}));
}

TEST_F(TextSource, MissingEmptyBinaryAndIllFormedTextsAreRefused) {
  EXPECT_NE(failure(dir / "missing.txt", ErrorCode::kNotFound).find("No such file"), std::string::npos);
  EXPECT_EQ(failure(put("empty.txt", "")), "expected text, found an empty file");
  EXPECT_EQ(failure(put("blank.txt", " \n\t\r\n")), "expected text, found an empty file");
  EXPECT_EQ(failure(put("binary.txt", std::string("ab\0cd", 5))),
            "expected text, found a NUL byte at 2: a binary file?");
  EXPECT_EQ(failure(put("latin1.txt", "caf\xe9 au lait")), "ill-formed UTF-8 at byte 3 (0xE9)");
  EXPECT_EQ(failure(put("cut.txt", "ab\xe2\x82")), "ill-formed UTF-8 at byte 2 (0xE2)");
  EXPECT_EQ(failure(put("surrogate.txt", "\xed\xa0\x80")), "ill-formed UTF-8 at byte 0 (0xED)");
  EXPECT_EQ(failure(put("only-ends.txt", "<|endoftext|><|endoftext|>")),
            "expected *.txt, *.md or *.jsonl with text, found none");
}

TEST_F(TextSource, AFolderWithoutTextIsRefused) {
  fs::create_directories(dir / "none");
  put("none/picture.png", "x");
  EXPECT_EQ(failure(dir / "none"), "expected *.txt, *.md or *.jsonl with text, found none");
}

TEST_F(TextSource, JsonlFaultsNameTheLine) {
  EXPECT_NE(failure(put("a.jsonl", "{\"text\": \"x\"}\nnot json\n")).find("line 2"), std::string::npos);
  EXPECT_NE(failure(put("b.jsonl", "{\"body\": \"x\"}\n")).find("line 1"), std::string::npos);
  EXPECT_NE(failure(put("c.jsonl", "{\"text\": 5}\n")).find("line 1"), std::string::npos);
  EXPECT_NE(failure(put("d.jsonl", "[1]\n")).find("line 1"), std::string::npos);
  EXPECT_NE(failure(put("e.jsonl", "{\"text\": \"a\\u0000b\"}\n")).find("NUL"), std::string::npos);
}

TEST_F(TextSource, FilesAboveTheLimitAreRefusedUnread) {
  TextOptions small;
  small.max_file_bytes = 4;
  EXPECT_EQ(failure(put("long.txt", "12345"), ErrorCode::kFormat, small), "5 bytes, expected at most 4");
}

TEST(Tokenize, EveryDocumentStartsWithEndOfText) {
  BpeTrainerOptions options;
  options.vocab_size = 260;
  const std::vector<std::string_view> views{"hello hello"};
  const Tokenizer tokenizer = train_bpe(views, options);
  const TokenShard shard = tokenize(tokenizer, {"hello", "h<|endoftext|>i"}, "digest");
  ASSERT_EQ(shard.document_count(), 2);
  EXPECT_EQ(shard.tokenizer_digest, "digest");
  const std::int32_t start = *tokenizer.eos_id();
  // A text that spells the token does not forge an end of text.
  EXPECT_EQ(std::count(shard.tokens.begin(), shard.tokens.end(), start), 2);
  EXPECT_EQ(shard.tokens[0], start);
  EXPECT_EQ(shard.tokens[static_cast<std::size_t>(shard.documents[1])], start);
  EXPECT_EQ(
      tokenizer.decode(std::span(shard.tokens).subspan(1, static_cast<std::size_t>(shard.documents[1] - 1))),
      "hello");
}

}  // namespace
}  // namespace stem
