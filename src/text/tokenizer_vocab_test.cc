// Tokenizers from the metadata of other formats.
#include "text/tokenizer_vocab.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "io/file.h"
#include "text/byte_alphabet.h"

namespace stem {
namespace {

using Ids = std::vector<std::int32_t>;

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

std::filesystem::path shared_file(const std::string& name) {
  const char* set = std::getenv("STEM_SHARED");
  return std::filesystem::path(set != nullptr ? set : STEM_SOURCE_DIR "/../shared") / name;
}

// Two control tokens, the 256 bytes, three merges, an unused id, a user defined token.
VocabularyPieces small_gpt2() {
  VocabularyPieces pieces;
  pieces.model = "gpt2";
  pieces.pre = "smollm";
  pieces.tokens = {"<|begin|>", "<|end|>"};
  for (int byte = 0; byte < 256; ++byte) {
    pieces.tokens.push_back(to_alphabet(std::string(1, static_cast<char>(static_cast<unsigned char>(byte)))));
  }
  for (const char* token : {"th", "the", "12", "[PAD261]", "  "}) pieces.tokens.push_back(token);
  pieces.merges = {"t h", "th e", "1 2"};
  pieces.types.assign(pieces.tokens.size(), 1);
  pieces.types[0] = pieces.types[1] = 3;
  pieces.types[261] = 5;
  pieces.types[262] = 4;
  pieces.bos = 0;
  pieces.eos = 1;
  pieces.chat_template = "{{ messages }}";
  return pieces;
}

std::int32_t byte_id(char c) {
  return 2 + static_cast<unsigned char>(c);
}

TEST(TokenizerFromPieces, Gpt2) {
  VocabularyPieces pieces = small_gpt2();
  const Tokenizer tokenizer = tokenizer_from_pieces(pieces, "m.gguf");
  EXPECT_EQ(tokenizer.encode("the<|end|>12  "), (Ids{259, 1, byte_id('1'), byte_id('2'), 262}));
  EXPECT_EQ(tokenizer.encode("<|end|>", false).size(), 7u);
  EXPECT_EQ(tokenizer.decode(Ids{0, 259, 261, 262}), "<|begin|>the  ");
  EXPECT_EQ(tokenizer.decode(Ids{0, 259, 262}, true), "the  ");
  EXPECT_FALSE(tokenizer.has_token(261));
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_EQ(tokenizer.chat_template(), "{{ messages }}");
  EXPECT_TRUE(tokenizer.prefix_ids().empty());
  const Tokenizer again = Tokenizer::from_json(tokenizer.to_json(), "again");
  EXPECT_EQ(again.to_json(), tokenizer.to_json());
  EXPECT_EQ(again.encode("the<|end|>12  "), tokenizer.encode("the<|end|>12  "));

  pieces.add_bos = true;
  pieces.pre = "qwen2";
  pieces.merges = {"t h", "th e", "1 2"};
  const Tokenizer other = tokenizer_from_pieces(pieces, "m.gguf");
  EXPECT_EQ(Ids(other.prefix_ids().begin(), other.prefix_ids().end()), Ids{0});
  EXPECT_EQ(other.encode("12"), (Ids{byte_id('1'), byte_id('2')}));  // each digit a word
  pieces.pre = "llama-bpe";
  EXPECT_EQ(tokenizer_from_pieces(pieces, "m.gguf").encode("12"), Ids{260});
  pieces.pre = "default";
  EXPECT_EQ(tokenizer_from_pieces(pieces, "m.gguf").encode("12"), Ids{260});
}

TEST(TokenizerFromPieces, EveryPreIsReadable) {
  VocabularyPieces pieces = small_gpt2();
  pieces.pre = "unheard-of";
  const std::string message = message_of([&] { (void)tokenizer_from_pieces(pieces, "m.gguf"); });
  const std::string head = "m.gguf: tokenizer.ggml.pre: expected one of ", tail = "; found \"unheard-of\"";
  ASSERT_TRUE(message.starts_with(head) && message.ends_with(tail)) << message;
  std::istringstream list(message.substr(head.size(), message.size() - head.size() - tail.size()));
  std::size_t count = 0;
  for (std::string pre; std::getline(list >> std::ws, pre, ','); ++count) {
    pieces.pre = pre;
    const std::string text = "It's the 1234th\n\n test:  (the) x_y ЖñÉ日本 ++";
    const Tokenizer tokenizer = tokenizer_from_pieces(pieces, pre);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << pre;
  }
  EXPECT_GE(count, 10u);
}

TEST(TokenizerFromPieces, WhatDoesNotFitIsNamed) {
  const auto said = [](const std::function<void(VocabularyPieces&)>& change) {
    VocabularyPieces pieces = small_gpt2();
    change(pieces);
    return message_of([&] { (void)tokenizer_from_pieces(pieces, "m"); });
  };
  EXPECT_EQ(said([](auto& p) { p.model = "bert"; }),
            "m: tokenizer.ggml.model: expected gpt2 or llama, found \"bert\"");
  EXPECT_EQ(said([](auto& p) { p.types.pop_back(); }),
            "m: tokenizer.ggml.token_type: expected 263 entries, one a token, found 262");
  EXPECT_EQ(said([](auto& p) { p.scores = {1}; }),
            "m: tokenizer.ggml.scores: expected 263 entries, one a token, found 1");
  EXPECT_EQ(said([](auto& p) { p.types[7] = 9; }),
            "m: tokenizer.ggml.token_type: id 7: expected 1 to 6, found 9");
  EXPECT_EQ(said([](auto& p) { p.eos = 263; }),
            "m: tokenizer.ggml.eos_token_id: expected an id below 263, found 263");
  EXPECT_EQ(said([](auto& p) { p.bos = -1; }),
            "m: tokenizer.ggml.bos_token_id: expected an id below 263, found -1");
  EXPECT_EQ(said([](auto& p) { p.merges.clear(); }), "m: tokenizer.ggml.merges: there are none");
  EXPECT_EQ(said([](auto& p) { p.merges[1] = "th x"; }),
            "m: tokenizer.ggml.merges: merge 1: \"thx\" is not in the vocabulary");
  EXPECT_EQ(
      said([](auto& p) { p.merges[1] = "the"; }),
      "m: tokenizer.ggml.merges: merge 1: expected two tokens with a space between them, found \"the\"");
  EXPECT_EQ(said([](auto& p) { p.tokens[258] = "the"; }),
            "m: tokenizer.ggml.tokens: token \"the\" has two ids, 258 and 259");
  EXPECT_EQ(said([](auto& p) { p.tokens[258] = "\xFF"; }),
            "m: tokenizer.ggml.tokens: ill-formed UTF-8 at byte 0 (0xFF)");
  EXPECT_EQ(said([](auto& p) { p.chat_template = "ab\xC3"; }),
            "m: tokenizer.chat_template: ill-formed UTF-8 at byte 2 (0xC3)");
  EXPECT_EQ(said([](auto& p) { p.tokens.clear(); }),
            "m: tokenizer.ggml.tokens: expected 1 to 4194304 tokens, found 0");
}

// The segments of the shared vectors (the texts are the same for every vocabulary) and their ids.
TEST(TokenizerFromPieces, SmolLm2EncodesTheSharedVectors) {
  const char* extracted = std::getenv("STEM_SMOLLM2");
  if (extracted == nullptr) {
    GTEST_SKIP() << "STEM_SMOLLM2 does not name what tools/extract_gguf_tokenizer.py made of SmolLM2";
  }
  const auto inputs = shared_file("data/tokenizer/ggml-vocab-gpt-2.gguf.inp");
  if (!std::filesystem::exists(inputs)) GTEST_SKIP() << inputs << " is absent";
  const Json json = parse_json(read_file(extracted), extracted);
  VocabularyPieces pieces;
  pieces.model = json["model"].get<std::string>();
  pieces.pre = json["pre"].get<std::string>();
  pieces.tokens = json["tokens"].get<std::vector<std::string>>();
  pieces.merges = json["merges"].get<std::vector<std::string>>();
  pieces.types = json["types"].get<Ids>();
  pieces.bos = json["bos"].get<std::int32_t>();
  pieces.eos = json["eos"].get<std::int32_t>();
  const Tokenizer tokenizer = tokenizer_from_pieces(pieces, extracted);
  EXPECT_EQ(tokenizer.vocab_size(), 49152);

  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  const std::string input = read_file(inputs);
  std::istringstream expected(read_file(shared_file("data/tokenizer/ggml-vocab-smollm.gguf.out")));
  std::size_t count = 0, at = 0;
  for (std::string line; std::getline(expected, line); ++count) {
    ASSERT_LE(at, input.size());
    const std::size_t end = std::min(input.find(kSeparator, at), input.size());
    const std::string text = input.substr(at, end - at);
    at = end + kSeparator.size();
    std::istringstream numbers(line);
    Ids ids;
    for (std::int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    EXPECT_EQ(tokenizer.decode(ids), text);
  }
  EXPECT_EQ(count, 46u);
}

}  // namespace
}  // namespace stem
