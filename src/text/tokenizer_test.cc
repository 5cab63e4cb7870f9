// What a tokenizer does beyond equality with the reference: streaming, damaged and hostile input,
// configuration.
#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "core/error.h"
#include "core/rng.h"
#include "io/file.h"
#include "text/bpe_trainer.h"
#include "text/normalize.h"
#include "text/utf8.h"

namespace stem {
namespace {

using Ids = std::vector<std::int32_t>;

Tokenizer small_tokenizer(std::int32_t vocab_size = 320, std::string pattern = "") {
  BpeTrainerOptions options;
  options.vocab_size = vocab_size;
  options.special_tokens = {"<|endoftext|>", "<|im_start|>"};
  options.pattern = std::move(pattern);
  const std::string_view text =
      "the cat sat on the mat; the other cat thought of España, of Österreich and of 🦙🦙 llamas, "
      "日本日本 日本. The end of the story is the end of the story.";
  return train_bpe({&text, 1}, options);
}

// The smallest valid tokenizer.json: bytes a and b, one merge.
Json tiny_json() {
  return {{"added_tokens", Json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}, {"Ġ", 3}}},
            {"merges", Json::array({"a b"})}}}};
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

std::string random_bytes(Rng& rng, std::size_t count) {
  std::string bytes(count, '\0');
  for (char& c : bytes) c = static_cast<char>(static_cast<unsigned char>(rng.below(256)));
  return bytes;
}

TEST(Tokenizer, AnyBytesComeBack) {
  const Tokenizer tokenizer = small_tokenizer();
  Rng rng(1, 1);
  for (int round = 0; round < 300; ++round) {
    const std::string bytes = random_bytes(rng, rng.below(40));
    std::string back;
    for (const std::int32_t id : tokenizer.encode(bytes)) back += tokenizer.token_bytes(id);
    EXPECT_EQ(back, bytes);
  }
}

TEST(Tokenizer, DecodesIllFormedBytesAsReplacementCharacters) {
  const Tokenizer tokenizer = small_tokenizer();
  const auto decoded = [&](std::string_view bytes) { return tokenizer.decode(tokenizer.encode(bytes)); };
  EXPECT_EQ(decoded("a\xFF"
                    "b"),
            "a\uFFFDb");
  EXPECT_EQ(decoded("\xE2\x82"), "\uFFFD");  // cut: one replacement
  EXPECT_EQ(decoded("\xE2\x82"
                    "a"),
            "\uFFFDa");
  EXPECT_EQ(decoded("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate: one a byte
  EXPECT_EQ(decoded("\xC0\x80"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(decoded("\xF0\x9F\xA6\xF0\x9F\xA6\x99"), "\uFFFD🦙");
}

TEST(Tokenizer, IdsWithoutATokenDecodeToNothing) {
  const Tokenizer tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.decode(Ids{-1, 1 << 20, *tokenizer.token_id("a"), tokenizer.vocab_size()}), "a");
  EXPECT_FALSE(tokenizer.has_token(-1));
  EXPECT_FALSE(tokenizer.has_token(tokenizer.vocab_size()));
  EXPECT_EQ(message_of([&] { (void)tokenizer.token_bytes(1 << 20); }, ErrorCode::kNotFound),
            "token id 1048576 is not in the vocabulary (ids are below 320)");
}

TEST(Tokenizer, SpecialTokens) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = "the<|endoftext|> cat";
  const Ids with = tokenizer.encode(text), without = tokenizer.encode(text, false);
  EXPECT_EQ(std::count(with.begin(), with.end(), 0), 1);
  EXPECT_EQ(std::count(without.begin(), without.end(), 0), 0);
  EXPECT_EQ(tokenizer.decode(with), text);
  EXPECT_EQ(tokenizer.decode(without), text);
  EXPECT_EQ(tokenizer.decode(with, true), "the cat");
  EXPECT_EQ(tokenizer.eos_id(), 0);
  EXPECT_TRUE(tokenizer.is_special(1));
  EXPECT_FALSE(tokenizer.is_special(2));
  EXPECT_EQ(tokenizer.token_id("<|im_start|>"), 1);
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
}

TEST(StreamDecoder, EveryCutGivesTheSameText) {
  // Tokens that are parts of characters: each byte a token of its own, and merged ones.
  for (const std::int32_t vocab_size : {258, 320}) {
    const Tokenizer tokenizer = small_tokenizer(vocab_size);
    const Ids ids =
        tokenizer.encode("España 🦙 日本 e\u0301 \xF0\x9F\xA6 \xFF end<|endoftext|>\xE2\x82");
    for (const bool skip_special : {false, true}) {
      for (std::size_t cut = 0; cut <= ids.size(); ++cut) {
        StreamDecoder decoder(tokenizer, skip_special);
        std::string text;
        for (std::size_t i = 0; i < cut; ++i) {
          const std::string part = decoder.push(ids[i]);
          EXPECT_EQ(utf8_valid_prefix(part), part.size());
          text += part;
        }
        // What came so far is a prefix of the whole text, up to characters still open.
        EXPECT_TRUE(tokenizer.decode(ids, skip_special).starts_with(text));
        text += decoder.finish();
        EXPECT_EQ(text, tokenizer.decode(std::span(ids).first(cut), skip_special)) << cut;
      }
    }
  }
}

TEST(StreamDecoder, HoldsBackOnlyOpenCharacters) {
  const Tokenizer tokenizer = small_tokenizer(258);  // no merges: a token a byte
  StreamDecoder decoder(tokenizer);
  const Ids ids = tokenizer.encode("é🦙");
  ASSERT_EQ(ids.size(), 6u);
  std::vector<std::string> parts;
  for (const std::int32_t id : ids) parts.push_back(decoder.push(id));
  EXPECT_EQ(parts, (std::vector<std::string>{"", "é", "", "", "", "🦙"}));
  EXPECT_EQ(decoder.finish(), "");
  decoder.push(ids[0]);
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.push(*tokenizer.token_id("a")), "a");  // as new
}

TEST(Tokenizer, LongWordsTakeLinearTime) {
  const Tokenizer tokenizer = small_tokenizer();
  const auto start = std::chrono::steady_clock::now();
  for (const char* unit : {"the", "a", " ", "日本", "e\u0301\u0323\u0301", "<|endoftext|", "\xFF", "\n "}) {
    std::string text;
    while (text.size() < 300'000) text += unit;
    std::string back;
    for (const std::int32_t id : tokenizer.encode(text)) back += tokenizer.token_bytes(id);
    EXPECT_EQ(back, text);
  }
  // Quadratic work would take minutes; half a minute leaves room for slow machines.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(Tokenizer, LongAndShortWordsMergeAlike) {
  const Tokenizer tokenizer = small_tokenizer(320, "[^|]+");
  // The same text below and above the length where the algorithm changes, kept apart by a boundary no merge
  // spans.
  const std::string word = "the other cat thought of the end of the story";
  ASSERT_LE(word.size(), 48u);
  Ids expected = tokenizer.encode(word);
  const Ids boundary = tokenizer.encode("\x01");
  const std::size_t length = expected.size();
  for (int i = 0; i < 3; ++i) {
    expected.insert(expected.end(), boundary.begin(), boundary.end());
    expected.insert(expected.end(), expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(length));
  }
  EXPECT_EQ(tokenizer.encode(word + "\x01" + word + "\x01" + word + "\x01" + word), expected);
}

TEST(WordCache, IsBounded) {
  WordCache cache;
  const std::int32_t id = 7;
  cache.insert("first", &id, 1);
  ASSERT_NE(cache.find("first"), nullptr);
  for (int i = 0; i < 70'000; ++i) cache.insert(std::to_string(i), &id, 1);
  EXPECT_EQ(cache.find("first"), nullptr);
  ASSERT_NE(cache.find("69999"), nullptr);
  EXPECT_EQ(*cache.find("69999"), Ids{7});
  const std::string long_word(1000, 'x');
  cache.insert(long_word, &id, 1);
  EXPECT_EQ(cache.find(long_word), nullptr);
}

TEST(Tokenizer, ThreadsShareOneTokenizer) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = "the cat thought of the end; the 🦙 of España sat";
  const Ids expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::vector<int> same(4, 0);
  for (std::size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) same[t] += tokenizer.encode(text) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(same, std::vector<int>(4, 200));
}

TEST(Tokenizer, BytesWithoutATokenAreAnError) {
  const Tokenizer tokenizer = Tokenizer::from_json(tiny_json().dump(), "tiny");
  EXPECT_EQ(tokenizer.encode("ab ba"), (Ids{2, 3, 1, 0}));
  EXPECT_EQ(message_of([&] { (void)tokenizer.encode("abc"); }, ErrorCode::kMismatch),
            "the tokenizer has no token for byte 0x63");
}

TEST(Tokenizer, PatternsAreBounded) {
  // Exponential backtracking: an error in bounded time, not a hang.
  const Tokenizer tokenizer = small_tokenizer(320, "(?:a+)+$|.");
  const std::string text = std::string(60, 'a') + "b";
  const std::string message = message_of([&] { (void)tokenizer.encode(text); });
  EXPECT_NE(message.find("matching stopped at byte 0"), std::string::npos) << message;
}

TEST(Tokenizer, HolesInTheIdsAreKept) {
  Json json = tiny_json();
  json["model"]["vocab"]["ab"] = 100;
  json["added_tokens"].push_back({{"id", 200}, {"content", "<x y>"}, {"special", true}});
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "tiny");
  EXPECT_EQ(tokenizer.vocab_size(), 201);
  EXPECT_EQ(tokenizer.encode("ab<x y>a"), (Ids{100, 200, 0}));
  EXPECT_EQ(tokenizer.decode(Ids{100, 50, 200, 0}), "ab<x y>a");
  EXPECT_EQ(tokenizer.decode(Ids{100, 50, 200, 0}, true), "aba");
  EXPECT_EQ(Tokenizer::from_json(tokenizer.to_json(), "saved").encode("ab<x y>a"), (Ids{100, 200, 0}));
}

TEST(Tokenizer, MergesInBothForms) {
  Json json = tiny_json();
  json["model"]["merges"] = Json::array({Json::array({"a", "b"})});
  EXPECT_EQ(Tokenizer::from_json(json.dump(), "t").encode("ab"), Ids{2});
}

TEST(Tokenizer, TemplateProcessingIsReported) {
  Json json = tiny_json();
  json["post_processor"] = Json::parse(R"({"type":"Sequence","processors":[{"type":"ByteLevel"},
    {"type":"TemplateProcessing",
     "single":[{"SpecialToken":{"id":"a","type_id":0}},{"Sequence":{"id":"A","type_id":0}},
               {"SpecialToken":{"id":"b","type_id":0}}],
     "pair":[],"special_tokens":{"a":{"id":"a","ids":[0],"tokens":["a"]},"b":{"id":"b","ids":[1,2],"tokens":["b"]}}}]})");
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "t");
  EXPECT_EQ(tokenizer.encode("ab"), Ids{2});
  EXPECT_EQ(Ids(tokenizer.prefix_ids().begin(), tokenizer.prefix_ids().end()), Ids{0});
  EXPECT_EQ(Ids(tokenizer.suffix_ids().begin(), tokenizer.suffix_ids().end()), (Ids{1, 2}));
}

TEST(Tokenizer, WithStartPutsATokenBeforeEveryText) {
  const auto ids = [](std::span<const std::int32_t> span) { return Ids(span.begin(), span.end()); };
  const Tokenizer none =
      Tokenizer::from_json(tiny_json().dump(), "t").with_config(R"({"eos_token":"b"})", "c");
  EXPECT_EQ(none.start_id(), std::nullopt);
  for (const char* before : {"null", R"({"type":"ByteLevel"})",
                             R"({"type":"TemplateProcessing","pair":[],
           "single":[{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"b","type_id":0}}],
           "special_tokens":{"b":{"id":"b","ids":[1],"tokens":["b"]}}})"}) {
    Json json = tiny_json();
    json["post_processor"] = Json::parse(before);
    const Tokenizer plain = Tokenizer::from_json(json.dump(), "t"), made = plain.with_start(0);
    const Tokenizer loaded = Tokenizer::from_json(made.to_json(), "loaded");
    for (const Tokenizer& t : {made, loaded}) {
      EXPECT_EQ(ids(t.prefix_ids()), Ids{0}) << before;
      EXPECT_EQ(ids(t.suffix_ids()), ids(plain.suffix_ids())) << before;
      EXPECT_EQ(t.start_id(), 0) << before;
      EXPECT_EQ(t.encode("ab"), Ids{2}) << before;
    }
    EXPECT_EQ(made.with_start(1).to_json(), made.to_json()) << before;
    EXPECT_EQ(plain.prefix_ids().size(), 0u) << before;
    EXPECT_TRUE(made.same_ids(plain) && plain.same_ids(made)) << before;
  }
  Json other = tiny_json();
  std::swap(other["model"]["vocab"]["a"], other["model"]["vocab"]["b"]);
  EXPECT_FALSE(none.same_ids(Tokenizer::from_json(other.dump(), "t")));
  EXPECT_THROW(none.with_start(1000), Error);
}

TEST(Tokenizer, SavesAndLoadsWithItsConfiguration) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("stem_tokenizer_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const Tokenizer tokenizer =
      small_tokenizer().with_config(R"({"chat_template":[{"name":"tool","template":"T"},
        {"name":"default","template":"{{ x }}"}],"eos_token":{"content":"<|im_start|>"},"bos_token":null})",
                                    "config");
  tokenizer.save(folder);
  for (const auto& path : {folder, folder / "tokenizer.json"}) {
    const Tokenizer loaded = Tokenizer::load(path);
    EXPECT_EQ(loaded.to_json(), tokenizer.to_json());
    EXPECT_EQ(loaded.chat_template(), "{{ x }}");
    EXPECT_EQ(loaded.eos_id(), 1);
    EXPECT_EQ(loaded.bos_id(), std::nullopt);
  }
  write_file_atomic(folder / "chat_template.jinja", "jinja");
  EXPECT_EQ(Tokenizer::load(folder).chat_template(), "jinja");
  std::filesystem::remove_all(folder);
  message_of([&] { (void)Tokenizer::load(folder); }, ErrorCode::kNotFound);
  EXPECT_EQ(
      message_of([&] { (void)tokenizer.with_config(R"({"eos_token":"<nix>"})", "c"); }, ErrorCode::kMismatch),
      "c: eos_token: the tokenizer has no token \"<nix>\"");
}

TEST(Tokenizer, DamagedFilesAreNamed) {
  struct Case {
    const char* pointer;
    const char* value;  // JSON; null removes nothing, it is a value
    const char* message;
  };
  const std::vector<Case> cases{
      {"/model/type", R"("WordPiece")", "t: model: type: expected \"BPE\", found \"WordPiece\""},
      {"/model/byte_fallback", "true", "t: model: byte_fallback: unsupported"},
      {"/model/dropout", "0.1", "t: model: dropout: unsupported"},
      {"/model/unk_token", R"("<unk>")", "t: model: unk_token: unsupported"},
      {"/model/continuing_subword_prefix", R"("##")", "t: model: continuing_subword_prefix: unsupported"},
      {"/model/end_of_word_suffix", R"("</w>")", "t: model: end_of_word_suffix: unsupported"},
      {"/model/vocab", "[]", "t: model: vocab: expected an object"},
      {"/model/vocab", "{}", "t: model: vocab: the vocabulary is empty"},
      {"/model/vocab/a", "1", "t: model: vocab: id 1 is given to \"a\" and to \"b\""},
      {"/model/vocab/a", "-1", "t: model: vocab: token \"a\": expected an id in [0, 4194303], found -1"},
      {"/model/vocab/a", "4194304",
       "t: model: vocab: token \"a\": expected an id in [0, 4194303], found 4194304"},
      {"/model/vocab/a", "18446744073709551615", "t: model: vocab: token \"a\": expected an id"},
      {"/model/vocab/a", "0.5", "t: model: vocab: token \"a\": expected an id in [0, 4194303], found 0.5"},
      {"/model/vocab/a", R"("x")",
       "t: model: vocab: token \"a\": expected an id in [0, 4194303], found \"x\""},
      {"/model/vocab", R"({"":0})", "t: model: vocab: id 0: expected a token of 1 to 65536 bytes, found 0"},
      {"/model/merges", "5", "t: model: merges: expected"},
      {"/model/merges", R"(["a c"])", "t: model: merges: merge 0: \"c\" is not in the vocabulary"},
      {"/model/merges", R"(["a b","b a"])", "t: model: merges: merge 1: \"ba\" is not in the vocabulary"},
      {"/model/merges", R"(["a b c"])", "t: model: merges: merge 0: expected two tokens with a space"},
      {"/model/merges", R"(["ab"])", "t: model: merges: merge 0: expected two tokens with a space"},
      {"/model/merges", R"([["a"]])", "t: model: merges: merge 0: expected \"a b\" or [\"a\", \"b\"]"},
      {"/model/merges", R"([["a",1]])", "t: model: merges: merge 0: expected \"a b\" or [\"a\", \"b\"]"},
      {"/normalizer", R"({"type":"Lowercase"})", "t: normalizer: type: expected NFC, Prepend, Replace or"},
      {"/normalizer", R"({"type":"Sequence","normalizers":[{"type":"NFKC"}]})", "found \"NFKC\""},
      {"/pre_tokenizer", "null", "t: decoder: type: expected Replace, ByteFallback, Metaspace"},
      {"/pre_tokenizer/type", R"("Whitespace")",
       "t: pre_tokenizer: type: expected ByteLevel, Metaspace, Split, Digits or"},
      {"/pre_tokenizer", R"({"type":"Digits","individual_digits":true})",
       "t: decoder: type: expected Replace, ByteFallback, Metaspace"},
      {"/pre_tokenizer",
       R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},{"type":"Digits"}]})",
       "t: pre_tokenizer: unsupported: \"Digits\" after ByteLevel"},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated"})",
       "t: pre_tokenizer: byte 2: missing closing parenthesis"},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"[a&&b]"},"behavior":"Isolated"})",
       "t: pre_tokenizer: unsupported in a pattern: && in a class"},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"\\h"},"behavior":"Isolated"})",
       "t: pre_tokenizer: unsupported in a pattern: \\h"},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"a{1,3}+"},"behavior":"Isolated"})",
       "t: pre_tokenizer: unsupported in a pattern: }+"},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"Sideways"})",
       "t: pre_tokenizer: behavior: expected Removed"},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"String":""},"behavior":"Removed"})",
       "t: pre_tokenizer: Split: the string is empty"},
      {"/decoder/type", R"("Metaspace")",
       "t: decoder: type: expected ByteLevel, as in pre_tokenizer, found \"Metaspace\""},
      {"/post_processor", R"({"type":"BertProcessing"})", "t: post_processor: type: expected ByteLevel"},
      {"/added_tokens", R"([{"id":0,"content":"b"}])",
       "t: added_tokens: \"b\" has id 0, but 1 in the vocabulary"},
      {"/added_tokens", R"([{"id":0,"content":"new"}])",
       "t: added_tokens: id 0 is given to \"new\", but to \"a\" in the vocabulary"},
      {"/added_tokens", R"([{"id":9,"content":"x"},{"id":9,"content":"y"}])",
       "t: added_tokens: id 9 occurs twice"},
      {"/added_tokens", R"([{"id":8,"content":"x"},{"id":9,"content":"x"}])",
       "t: added_tokens: \"x\" occurs twice"},
      {"/added_tokens", R"([{"id":9,"content":""}])", "t: added_tokens: id 9: the content is empty"},
      {"/added_tokens", R"([{"id":-1,"content":"x"}])", "t: added_tokens: id: expected an integer"},
      {"/added_tokens", R"([5])", "t: added_tokens"},
      {"/model", "7", "t: model: expected"},
  };
  for (const Case& test_case : cases) {
    Json json = tiny_json();
    json[Json::json_pointer(test_case.pointer)] = Json::parse(test_case.value);
    const std::string message = message_of([&] { (void)Tokenizer::from_json(json.dump(), "t"); });
    EXPECT_NE(message.find(test_case.message), std::string::npos)
        << test_case.pointer << " = " << test_case.value << "\nsaid: " << message
        << "\nnot:  " << test_case.message;
  }
  for (const char* text : {"", "[]", "5", "{", "{\"model\":null}", "nonsense"}) {
    message_of([&] { (void)Tokenizer::from_json(text, "t"); });
  }
}

TEST(Tokenizer, AFileCutAnywhereIsAnError) {
  const std::string whole = tiny_json().dump();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    message_of([&] { (void)Tokenizer::from_json(std::string_view(whole).substr(0, length), "t"); });
  }
}

TEST(Tokenizer, DeepSequencesAreAnError) {
  Json json = tiny_json();
  for (int depth = 0; depth < 20; ++depth) {
    json["decoder"] = Json{{"type", "Sequence"}, {"decoders", Json::array({json["decoder"]})}};
  }
  message_of([&] { (void)Tokenizer::from_json(json.dump(), "t"); });
}

TEST(BpeTrainer, RefusesImpossibleRequests) {
  const std::string_view text = "a";
  const auto train = [&](const BpeTrainerOptions& request) { (void)train_bpe({&text, 1}, request); };
  BpeTrainerOptions too_small;
  too_small.vocab_size = 256;
  EXPECT_EQ(
      message_of([&] { train(too_small); }, ErrorCode::kUsage),
      "training a tokenizer: vocab_size: expected 257 (bytes and special tokens) to 4194303, found 256");
  BpeTrainerOptions options;
  options.special_tokens = {""};
  message_of([&] { train(options); }, ErrorCode::kUsage);
  options.special_tokens = {"x", "x"};
  message_of([&] { train(options); }, ErrorCode::kUsage);
  options.special_tokens = {};
  options.pattern = "(";
  message_of([&] { train(options); });
  const std::string_view broken = "ab\xFF";
  EXPECT_EQ(message_of([&] {
              (void)train_bpe({&broken, 1}, {});
            }),
            "training text 0: ill-formed UTF-8 at byte 2 (0xFF)");
}

TEST(Utf8, NamesTheFirstIllFormedByte) {
  EXPECT_NO_THROW(check_utf8("ok é 日 🦙 \U0010FFFF", "x"));
  EXPECT_EQ(message_of([] { check_utf8("12345678é\xC3", "x.txt"); }),
            "x.txt: ill-formed UTF-8 at byte 10 (0xC3)");
  for (const char* bad : {"\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE6\x97"}) {
    message_of([&] { check_utf8(bad, "x"); });
  }
}

TEST(Normalize, ComposesAndOrders) {
  EXPECT_EQ(to_nfc("e\u0301"), "é");
  EXPECT_EQ(to_nfc("q\u0307\u0323"), "q\u0323\u0307");  // canonical order
  EXPECT_EQ(to_nfc("\u1100\u1161\u11A8"), "각");        // Hangul
  EXPECT_EQ(to_nfc("\u212B"), "\u00C5");                // singleton
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093C");          // composition exclusion
  EXPECT_EQ(to_nfc("plain"), "plain");
  EXPECT_EQ(to_nfc(""), "");
  std::string marks = "a";
  for (int i = 0; i < 100'000; ++i) marks += "\u0301\u0323";  // quadratic if ordered by swapping neighbours
  EXPECT_EQ(to_nfc(marks).substr(0, 3), "\u1EA1");
}

}  // namespace
}  // namespace stem
