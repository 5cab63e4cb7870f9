// Equality with Hugging Face's `tokenizers` (goldens made by tools/make_tokenizer_goldens.py) and with the
// shared GPT-2 vectors.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "io/file.h"
#include "text/bpe_trainer.h"
#include "text/normalize.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace stem {
namespace {

using Ids = std::vector<std::int32_t>;

Json read_golden(const std::string& name) {
  const auto path = std::filesystem::path(STEM_SOURCE_DIR) / "tests/golden/tokenizer" / name;
  return parse_json(read_file(path), name);
}

const Json& encode_golden() {
  static const Json golden = read_golden("encode.json");
  return golden;
}

Tokenizer make_tokenizer(const Json& test_case) {
  Json json = test_case["frame"];
  json["model"] = encode_golden()["model"];
  json["model"]["ignore_merges"] = test_case["ignore_merges"];
  return Tokenizer::from_json(json.dump(), test_case["name"].get<std::string>());
}

TEST(TokenizerGolden, EncodesLikeTheReference) {
  const Json& golden = encode_golden();
  ASSERT_GE(golden["cases"].size(), 20u);
  for (const Json& test_case : golden["cases"]) {
    SCOPED_TRACE(test_case["name"].get<std::string>());
    const Tokenizer tokenizer = make_tokenizer(test_case);
    for (std::size_t i = 0; i < golden["texts"].size(); ++i) {
      const auto text = golden["texts"][i].get<std::string>();
      EXPECT_EQ(tokenizer.encode(text), test_case["ids"][i].get<Ids>()) << "text " << i << ": " << text;
      if (test_case.contains("ids_no_special")) {
        EXPECT_EQ(tokenizer.encode(text, false), test_case["ids_no_special"][i].get<Ids>()) << "text " << i;
      }
    }
  }
}

TEST(TokenizerGolden, DecodesLikeTheReference) {
  const Json& golden = encode_golden();
  const Json& test_case = golden["cases"][0];
  const Tokenizer tokenizer = make_tokenizer(test_case);
  for (std::size_t i = 0; i < golden["id_lists"].size(); ++i) {
    const Ids ids = golden["id_lists"][i].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids), test_case["decoded"][i].get<std::string>()) << i;
    EXPECT_EQ(tokenizer.decode(ids, true), test_case["decoded_skip_special"][i].get<std::string>()) << i;
  }
}

TEST(TokenizerGolden, DecodingWhatWasEncodedGivesTheTextBack) {
  const Json& golden = encode_golden();
  for (const Json& test_case : golden["cases"]) {
    const auto name = test_case["name"].get<std::string>();
    // These drop text, put a space in front, or take white space into a token.
    if (name.find("removed") != std::string::npos || name.find("prefix") != std::string::npos ||
        name.find("added") != std::string::npos) {
      continue;
    }
    SCOPED_TRACE(name);
    const Tokenizer tokenizer = make_tokenizer(test_case);
    const bool nfc = !test_case["frame"]["normalizer"].is_null();
    for (const Json& item : golden["texts"]) {
      const auto text = item.get<std::string>();
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), nfc ? to_nfc(text) : text);
    }
  }
}

TEST(TokenizerGolden, SavingAndLoadingChangesNothing) {
  const Json& golden = encode_golden();
  for (const Json& test_case : golden["cases"]) {
    SCOPED_TRACE(test_case["name"].get<std::string>());
    const std::string saved = make_tokenizer(test_case).to_json();
    const Tokenizer tokenizer = Tokenizer::from_json(saved, "saved");
    EXPECT_EQ(tokenizer.to_json(), saved);
    for (std::size_t i = 0; i < golden["texts"].size(); ++i) {
      EXPECT_EQ(tokenizer.encode(golden["texts"][i].get<std::string>()), test_case["ids"][i].get<Ids>());
    }
  }
}

TEST(TokenizerGolden, TrainsLikeTheReference) {
  const Json golden = read_golden("train.json");
  ASSERT_GE(golden["cases"].size(), 15u);
  for (std::size_t i = 0; i < golden["cases"].size(); ++i) {
    SCOPED_TRACE(i);
    const Json& test_case = golden["cases"][i];
    const auto texts = test_case["texts"].get<std::vector<std::string>>();
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    BpeTrainerOptions options;
    options.vocab_size = test_case["vocab_size"].get<std::int32_t>();
    options.min_frequency = test_case.value("min_frequency", 0);
    options.special_tokens = test_case.value("special_tokens", options.special_tokens);
    options.pattern = test_case.value("pattern", std::string());
    options.nfc = test_case.value("nfc", false);
    const Tokenizer tokenizer = train_bpe(views, options);
    const Json json = parse_json(tokenizer.to_json(), "trained");
    std::vector<std::string> vocabulary, merges;
    for (const auto& [written, id] : json["model"]["vocab"].items()) {
      ASSERT_EQ(id.get<std::size_t>(), vocabulary.size());
      vocabulary.push_back(written);
    }
    for (const Json& rule : json["model"]["merges"]) {
      merges.push_back(rule[0].get<std::string>() + " " + rule[1].get<std::string>());
    }
    EXPECT_EQ(merges, test_case["merges"].get<std::vector<std::string>>());
    EXPECT_EQ(vocabulary, test_case["vocab"].get<std::vector<std::string>>());
  }
}

class SharedVectors : public testing::Test {
 protected:
  void SetUp() override {
    const char* set = std::getenv("STEM_SHARED");
    const std::filesystem::path shared = set != nullptr ? set : STEM_SOURCE_DIR "/../shared";
    folder_ = shared / "data/tokenizer";
    if (!std::filesystem::exists(folder_ / "gpt2_vocab.bpe")) GTEST_SKIP() << folder_ << " is absent";
  }
  std::string read(const std::string& name) const { return read_file(folder_ / name); }
  Tokenizer gpt2() const {
    return Tokenizer::from_gpt2(read("gpt2_encoder.json"), read("gpt2_vocab.bpe"), "gpt2");
  }
  std::filesystem::path folder_;
};

TEST_F(SharedVectors, Gpt2) {
  const Tokenizer tokenizer = gpt2();
  EXPECT_EQ(tokenizer.vocab_size(), 50257);
  EXPECT_EQ(tokenizer.eos_id(), 50256);
  EXPECT_EQ(tokenizer.token_bytes(tokenizer.token_id(" Spain").value()), " Spain");
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  const std::string input = read("ggml-vocab-gpt-2.gguf.inp");
  std::istringstream expected(read("ggml-vocab-gpt-2.gguf.out"));
  std::size_t count = 0;
  for (std::size_t at = 0; at <= input.size(); ++count) {
    const std::size_t end = std::min(input.find(kSeparator, at), input.size());
    const std::string text = input.substr(at, end - at);
    at = end + kSeparator.size();
    std::string line;
    if (!std::getline(expected, line)) {
      EXPECT_EQ(text, "") << "only what follows the last separator has no line";
      break;
    }
    std::istringstream numbers(line);
    Ids ids;
    for (std::int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
  EXPECT_GE(count, 40u);
}

TEST_F(SharedVectors, Gpt2KeepsEverythingWhenSaved) {
  const Tokenizer tokenizer = gpt2();
  const Tokenizer again = Tokenizer::from_json(tokenizer.to_json(), "saved");
  EXPECT_EQ(again.to_json(), tokenizer.to_json());
  const std::string text = read("ggml-vocab-gpt-2.gguf.inp");
  EXPECT_EQ(again.encode(text), tokenizer.encode(text));
}

}  // namespace
}  // namespace stem
