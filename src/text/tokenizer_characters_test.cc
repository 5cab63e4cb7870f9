// BPE over characters against Hugging Face's `tokenizers` (goldens made by tools/make_tokenizer_goldens.py),
// and the files of SentencePiece models.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "core/error.h"
#include "io/file.h"
#include "text/merge_rules.h"
#include "text/tokenizer.h"
#include "text/tokenizer_vocab.h"

namespace stem {
namespace {

using Ids = std::vector<std::int32_t>;
using Texts = std::vector<std::string>;

const Json& golden() {
  static const Json json =
      parse_json(read_file(std::filesystem::path(STEM_SOURCE_DIR) / "tests/golden/tokenizer/characters.json"),
                 "characters.json");
  return json;
}

std::string written(const Json& test_case) {
  Json json = test_case["frame"];
  json["model"] = test_case["model"];
  const auto without = test_case["without"].get<Texts>();
  Json vocab = Json::object();
  for (std::int32_t id = 0; const Json& token : golden()["vocab"]) {
    if (std::find(without.begin(), without.end(), token) == without.end())
      vocab[token.get<std::string>()] = id;
    ++id;
  }
  json["model"]["vocab"] = std::move(vocab);
  json["model"]["merges"] = golden()["merges"];
  return json.dump();
}

Tokenizer make_tokenizer(const Json& test_case) {
  return Tokenizer::from_json(written(test_case), test_case["name"].get<std::string>());
}

const Json& case_named(std::string_view name) {
  for (const Json& test_case : golden()["cases"]) {
    if (test_case["name"] == name) return test_case;
  }
  throw std::out_of_range("no such case");
}

std::string message_of(const std::function<void()>& act, ErrorCode code = ErrorCode::kFormat) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(CharacterBpe, EncodesAndDecodesLikeTheReference) {
  ASSERT_GE(golden()["cases"].size(), 15u);
  for (const Json& test_case : golden()["cases"]) {
    SCOPED_TRACE(test_case["name"].get<std::string>());
    const Tokenizer tokenizer = make_tokenizer(test_case);
    const Tokenizer again = Tokenizer::from_json(tokenizer.to_json(), "again");
    EXPECT_EQ(again.to_json(), tokenizer.to_json());
    for (std::size_t i = 0; i < golden()["texts"].size(); ++i) {
      const auto text = golden()["texts"][i].get<std::string>();
      EXPECT_EQ(tokenizer.encode(text), test_case["ids"][i].get<Ids>()) << "text " << i << ": " << text;
      EXPECT_EQ(again.encode(text), test_case["ids"][i].get<Ids>()) << "text " << i;
    }
    if (!test_case.contains("decoded")) continue;
    for (std::size_t i = 0; i < golden()["id_lists"].size(); ++i) {
      const Ids ids = golden()["id_lists"][i].get<Ids>();
      EXPECT_EQ(tokenizer.decode(ids), test_case["decoded"][i].get<std::string>()) << "ids " << i;
      EXPECT_EQ(tokenizer.decode(ids, true), test_case["decoded_skip_special"][i].get<std::string>())
          << "ids " << i;
    }
  }
}

TEST(CharacterBpe, AStreamGivesTheSameText) {
  for (const Json& test_case : golden()["cases"]) {
    SCOPED_TRACE(test_case["name"].get<std::string>());
    const Tokenizer tokenizer = make_tokenizer(test_case);
    for (const bool continues : {false, true}) {
      StreamDecoder decoder(tokenizer, true, continues);
      for (const Json& list : golden()["id_lists"]) {
        const Ids ids = list.get<Ids>();
        std::string text;
        for (const std::int32_t id : ids) text += decoder.push(id);
        text += decoder.finish();
        EXPECT_EQ(text, tokenizer.decode(ids, true, continues));
      }
    }
  }
}

TEST(CharacterBpe, WhatContinuesATextKeepsItsFirstSpace) {
  for (const char* name : {"llama", "metaspace"}) {
    const Tokenizer tokenizer = make_tokenizer(case_named(name));
    const std::int32_t id = tokenizer.token_id(" the").value();
    EXPECT_EQ(tokenizer.token_bytes(id), " the");
    EXPECT_EQ(tokenizer.decode(Ids{id}), "the");
    EXPECT_EQ(tokenizer.decode(Ids{id}, false, true), " the");
    EXPECT_EQ(tokenizer.encode("the"), Ids{id});
  }
}

TEST(CharacterBpe, TokensAndTheirBytes) {
  const Tokenizer tokenizer = make_tokenizer(case_named("llama"));
  EXPECT_EQ(tokenizer.token_id("a"), tokenizer.encode("xa").back());  // not <0x61>
  EXPECT_EQ(tokenizer.token_id("\n"), 3 + 0x0A);
  EXPECT_EQ(tokenizer.token_bytes(3 + 0xFF), "\xFF");
  EXPECT_EQ(tokenizer.token_id("</s>"), 2);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.decode(Ids{3 + 0xF0, 3 + 0x9F, 300 - 299}), "\uFFFD<s>");
  // Bytes that are no UTF-8 become their tokens.
  EXPECT_EQ(tokenizer.encode("\xFF\x41"),
            (Ids{3 + 0xFF, tokenizer.encode("A").front(), tokenizer.encode("A").back()}));
}

TEST(CharacterBpe, LongTextsTakeLinearTime) {
  const Tokenizer tokenizer = make_tokenizer(case_named("llama"));  // no words: all of it is one
  std::string text;
  while (text.size() < 300'000) text += "the capital of \xF0\x9F\xA6\x99 x ";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(CharacterBpe, MergesFromScores) {
  ASSERT_GE(golden()["scored"].size(), 3u);
  for (const Json& scored : golden()["scored"]) {
    Vocabulary vocabulary(Spelling::kText);
    const auto tokens = scored["tokens"].get<Texts>();
    for (std::size_t id = 0; id < tokens.size(); ++id) {
      vocabulary.add(tokens[id], static_cast<std::int64_t>(id), "golden");
    }
    const auto scores = scored["scores"].get<std::vector<float>>();
    Texts merges;
    for (const MergeRule& rule :
         merges_from_scores(vocabulary, scores, std::vector<bool>(tokens.size(), true), "golden")) {
      merges.push_back(vocabulary.written(rule.left) + " " + vocabulary.written(rule.right));
    }
    EXPECT_EQ(merges, scored["merges"].get<Texts>());
    EXPECT_GT(merges.size(), 100u);
  }
}

// The pieces of a GGUF file give what the tokenizer.json gives.
TEST(CharacterBpe, FromPieces) {
  const Json& llama = case_named("llama");
  VocabularyPieces pieces;
  pieces.model = "llama";
  pieces.tokens = golden()["vocab"].get<Texts>();
  pieces.types.assign(pieces.tokens.size(), 1);
  for (std::size_t id = 0; id < 259; ++id) pieces.types[id] = id == 0 ? 2 : id < 3 ? 3 : 6;
  pieces.merges = golden()["merges"].get<Texts>();
  pieces.bos = 1;
  pieces.eos = 2;
  pieces.unk = 0;
  pieces.add_bos = true;
  const Tokenizer tokenizer = tokenizer_from_pieces(pieces, "m");
  for (std::size_t i = 0; i < golden()["texts"].size(); ++i) {
    EXPECT_EQ(tokenizer.encode(golden()["texts"][i].get<std::string>()), llama["ids"][i].get<Ids>()) << i;
  }
  EXPECT_EQ(Ids(tokenizer.prefix_ids().begin(), tokenizer.prefix_ids().end()), Ids{1});
  EXPECT_EQ(tokenizer.bos_id(), 1);

  // With scores in the order of the tokens the merges are in that order, too.
  pieces.merges.clear();
  for (std::size_t id = 0; id < pieces.tokens.size(); ++id) pieces.scores.push_back(-static_cast<float>(id));
  const Tokenizer scored = tokenizer_from_pieces(pieces, "m");
  EXPECT_EQ(scored.decode(scored.encode("the capital of Spain")), "the capital of Spain");
  EXPECT_LT(scored.encode("the capital of Spain").size(), 12u);
  EXPECT_EQ(scored.encode("<s>", false).size(), 4u);  // no rule makes a control token

  pieces.add_space_prefix = false;
  EXPECT_EQ(tokenizer_from_pieces(pieces, "m").encode("x").size(), 1u);
  pieces.scores[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message_of([&] { (void)tokenizer_from_pieces(pieces, "m"); }),
            "m: tokenizer.ggml.scores: id 5: expected a number, found NaN");
  pieces.scores.clear();
  EXPECT_EQ(message_of([&] { (void)tokenizer_from_pieces(pieces, "m"); }),
            "m: tokenizer.ggml.scores: there are neither scores nor merges");
}

TEST(CharacterBpe, WhatIsUnsupportedIsNamed) {
  struct Case {
    const char* pointer;
    const char* value;
    const char* message;
  };
  const std::vector<Case> cases{
      {"/decoder", "null",
       "t: decoder: expected Metaspace or a Sequence for a vocabulary of text, found null"},
      {"/decoder", R"({"type":"ByteLevel"})", "t: decoder: type: expected Replace, ByteFallback"},
      {"/decoder/decoders/0/pattern", R"({"Regex":"a"})", "t: decoder: Replace: unsupported: a Regex"},
      {"/decoder/decoders/0/pattern", R"({"String":""})", "t: decoder: Replace: the string is empty"},
      {"/decoder/decoders/2", R"({"type":"ByteFallback"})", "found \"Strip\""},
      {"/decoder/decoders/3/stop", "1", "t: decoder: Strip: stop: unsupported: expected 0"},
      {"/decoder/decoders/3/content", R"("")", "t: decoder: Strip: the content is empty"},
      {"/decoder/decoders/4", R"({"type":"ByteFallback"})",
       "t: decoder: unsupported: \"ByteFallback\" after Strip"},
      {"/normalizer", R"({"type":"Lowercase"})",
       "t: normalizer: type: expected NFC, Prepend, Replace or a Sequence"},
      {"/normalizer/normalizers/1/pattern", R"({"String":""})",
       "t: normalizer: Replace: the string is empty"},
      {"/normalizer/normalizers/1/pattern", R"({"Regex":"("})", "t: normalizer: byte 1"},
      {"/pre_tokenizer", R"({"type":"Metaspace","replacement":"ab"})",
       "t: pre_tokenizer: replacement: expected one character, found \"ab\""},
      {"/pre_tokenizer", R"({"type":"Metaspace","replacement":"_","prepend_scheme":"last"})",
       "t: pre_tokenizer: prepend_scheme: expected always, first or never, found \"last\""},
      {"/pre_tokenizer", R"({"type":"Metaspace","replacement":"_","add_prefix_space":false})",
       "t: pre_tokenizer: add_prefix_space: false contradicts prepend_scheme \"always\""},
      {"/pre_tokenizer", R"({"type":"ByteLevel","add_prefix_space":false})", "t: model: byte_fallback"},
      {"/model/unk_token", R"("<none>")", "t: model: unk_token: \"<none>\" is not in the vocabulary"},
  };
  const Json whole = Json::parse(written(case_named("llama")));
  for (const Case& test_case : cases) {
    Json json = whole;
    json[Json::json_pointer(test_case.pointer)] = Json::parse(test_case.value);
    const std::string message = message_of([&] { (void)Tokenizer::from_json(json.dump(), "t"); });
    EXPECT_NE(message.find(test_case.message), std::string::npos)
        << test_case.pointer << " = " << test_case.value << "\nsaid: " << message
        << "\nnot:  " << test_case.message;
  }
  Json json = whole;
  json["model"]["unk_token"] = nullptr;
  json["model"]["byte_fallback"] = false;
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "t");
  EXPECT_EQ(message_of([&] { (void)tokenizer.encode("a\xF0\x9F\x90\x8D"); }, ErrorCode::kMismatch),
            "the tokenizer has no token for U+1F40D");
  EXPECT_EQ(message_of([&] { (void)tokenizer.encode("a\xFF"); }, ErrorCode::kMismatch),
            "the tokenizer has no token for byte 0xFF");
}

class Llama2c : public testing::Test {
 protected:
  void SetUp() override {
    const char* set = std::getenv("STEM_SHARED");
    const std::filesystem::path shared = set != nullptr ? set : STEM_SOURCE_DIR "/../shared";
    const auto path = shared / "data/model/tok512.bin";
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is absent";
    bytes_ = read_file(path);
  }
  std::string bytes_;
};

TEST_F(Llama2c, ReadsAndEncodes) {
  const Tokenizer tokenizer = Tokenizer::from_llama2c(bytes_, 512, "tok512.bin");
  EXPECT_EQ(tokenizer.vocab_size(), 512);
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(Ids(tokenizer.prefix_ids().begin(), tokenizer.prefix_ids().end()), Ids{1});
  const std::string story =
      "Once upon a time, there was a little girl named Lily.\nShe said: \"España \U0001F999\"";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(story)), story);
  EXPECT_EQ(tokenizer.encode("Once upon a time"), (Ids{403, 407, 261, 378}));
  EXPECT_EQ(tokenizer.encode("\n").back(), 3 + 0x0A);
  EXPECT_EQ(Tokenizer::from_json(tokenizer.to_json(), "json").encode(story), tokenizer.encode(story));
}

TEST_F(Llama2c, DamagedFilesAreNamed) {
  for (std::size_t length = 0; length < bytes_.size(); length += 7) {
    message_of([&] { (void)Tokenizer::from_llama2c(std::string_view(bytes_).substr(0, length), 512, "t"); });
  }
  EXPECT_EQ(message_of([&] { (void)Tokenizer::from_llama2c(bytes_ + "x", 512, "t"); }),
            "t: 1 bytes after the last of 512 tokens");
  EXPECT_EQ(message_of([&] { (void)Tokenizer::from_llama2c("", 512, "t"); }),
            "t: byte 0: expected the greatest length of a token, found the end of the file");
  std::string negative = bytes_;
  const std::int32_t length = -5;
  std::memcpy(negative.data() + 8, &length, sizeof length);
  const std::string message = message_of([&] { (void)Tokenizer::from_llama2c(negative, 512, "t"); });
  EXPECT_TRUE(message.starts_with("t: token 0: expected a length of at most ")) << message;
}

}  // namespace
}  // namespace stem
