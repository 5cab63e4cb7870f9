#include "text/tokenizer_vocab.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "text/merge_rules.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer_data.h"
#include "text/utf8.h"

namespace stem {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";  // SentencePiece's space

// Contractions, words with one foreign character in front, digits by threes or one by one, other characters
// with the line ends behind them, white space. Source: the tokenizers of Llama 3 and Qwen2.
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Words cut where lower case turns into upper case. Source: the tokenizer of Mistral NeMo.
constexpr std::string_view kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How a `pre` cuts text: at a pattern, or, if that is empty, with GPT-2's.
struct Cut {
  std::string_view pre;
  std::string_view pattern;
  bool single_digits = false;  // before the pattern
  bool nfc = false;
  bool ignore_merges = false;
};
constexpr auto kCuts = std::to_array<Cut>({
    {.pre = "gpt-2", .pattern = ""},
    {.pre = "olmo", .pattern = ""},
    {.pre = "mpt", .pattern = ""},
    {.pre = "smollm", .pattern = "", .single_digits = true},
    {.pre = "starcoder", .pattern = "", .single_digits = true},
    {.pre = "refact", .pattern = "", .single_digits = true},
    {.pre = "command-r", .pattern = "", .single_digits = true, .nfc = true},
    {.pre = "llama-bpe", .pattern = kLlama3Pattern, .ignore_merges = true},
    {.pre = "llama3", .pattern = kLlama3Pattern, .ignore_merges = true},
    {.pre = "llama-v3", .pattern = kLlama3Pattern, .ignore_merges = true},
    {.pre = "qwen2", .pattern = kQwen2Pattern, .nfc = true},
    {.pre = "deepseek-r1-qwen", .pattern = kQwen2Pattern},
    {.pre = "stablelm2", .pattern = kQwen2Pattern},
    {.pre = "tekken", .pattern = kTekkenPattern, .ignore_merges = true},
});

Json split_at(std::string_view pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", std::string(pattern)}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json sequence(const char* key, Json steps) {
  return {{"type", "Sequence"}, {key, std::move(steps)}};
}

// "default" stands in files older than the field, for punctuation, GPT-2's words, and digits by threes, one
// after the other. Source: llama.cpp.
Json default_pre_tokenizer() {
  Json byte_level = PreTokenizer::describe("");
  byte_level["use_regex"] = false;
  return sequence(
      "pretokenizers",
      Json::array({split_at(R"([\p{P}\$\+<=>\^~\|]+)"),
                   split_at(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"),
                   split_at(R"(\p{N}+)"), split_at("[0-9][0-9][0-9]"), byte_level}));
}

// What the frame of a tokenizer.json says about the model and what comes before and after it.
void describe_gpt2(const VocabularyPieces& pieces, const std::string& name, Json& frame) {
  Json& model = frame["model"];
  frame["decoder"] = PreTokenizer::describe("");
  if (pieces.pre.empty() || pieces.pre == "default") {
    frame["pre_tokenizer"] = default_pre_tokenizer();
    return;
  }
  const auto cut =
      std::find_if(kCuts.begin(), kCuts.end(), [&](const Cut& c) { return c.pre == pieces.pre; });
  if (cut == kCuts.end()) {
    std::string known = "default";
    for (const Cut& c : kCuts) known.append(", ").append(c.pre);
    fail(ErrorCode::kFormat, "{}: tokenizer.ggml.pre: expected one of {}; found {}", name, known,
         shown(pieces.pre));
  }
  Json pre_tokenizer = PreTokenizer::describe(cut->pattern);
  if (cut->single_digits) {
    pre_tokenizer = sequence(
        "pretokenizers",
        Json::array({Json{{"type", "Digits"}, {"individual_digits", true}}, std::move(pre_tokenizer)}));
  }
  frame["pre_tokenizer"] = std::move(pre_tokenizer);
  if (cut->nfc) frame["normalizer"] = {{"type", "NFC"}};
  model["ignore_merges"] = cut->ignore_merges;
}

void describe_llama(const VocabularyPieces& pieces, Json& frame) {
  const std::string mark(kSpaceMark);
  Json normalizers = Json::array(), decoders = Json::array();
  if (pieces.add_space_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", mark}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", mark}});
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (pieces.add_space_prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  frame["normalizer"] = sequence("normalizers", std::move(normalizers));
  frame["decoder"] = sequence("decoders", std::move(decoders));
  Json& model = frame["model"];
  if (pieces.unk) model["unk_token"] = pieces.tokens[static_cast<std::size_t>(*pieces.unk)];
  model["fuse_unk"] = true;
  model["byte_fallback"] = true;
}

void check_sizes(const VocabularyPieces& pieces, const std::string& name) {
  const std::size_t count = pieces.tokens.size();
  if (count == 0 || count > static_cast<std::size_t>(Vocabulary::kMaxId) + 1) {
    fail(ErrorCode::kFormat, "{}: tokenizer.ggml.tokens: expected 1 to {} tokens, found {}", name,
         Vocabulary::kMaxId + 1, count);
  }
  if (!pieces.types.empty() && pieces.types.size() != count) {
    fail(ErrorCode::kFormat, "{}: tokenizer.ggml.token_type: expected {} entries, one a token, found {}",
         name, count, pieces.types.size());
  }
  if (!pieces.scores.empty() && pieces.scores.size() != count) {
    fail(ErrorCode::kFormat, "{}: tokenizer.ggml.scores: expected {} entries, one a token, found {}", name,
         count, pieces.scores.size());
  }
  if (pieces.merges.size() > kMaxMerges) {
    fail(ErrorCode::kFormat, "{}: tokenizer.ggml.merges: expected at most {}, found {}", name, kMaxMerges,
         pieces.merges.size());
  }
  for (const auto& [key, id] : {std::pair("bos", pieces.bos), {"eos", pieces.eos}, {"unknown", pieces.unk}}) {
    if (id && (*id < 0 || static_cast<std::size_t>(*id) >= count)) {
      fail(ErrorCode::kFormat, "{}: tokenizer.ggml.{}_token_id: expected an id below {}, found {}", name, key,
           count, *id);
    }
  }
}

// The types, with the tokens that the file names as begin, end and unknown made what they are.
std::vector<GgufTokenType> token_types(const VocabularyPieces& pieces, const std::string& name) {
  std::vector<GgufTokenType> types(pieces.tokens.size(), GgufTokenType::kNormal);
  for (std::size_t id = 0; id < pieces.types.size(); ++id) {
    const std::int32_t type = pieces.types[id];
    if (type < 0 || type > 6) {
      fail(ErrorCode::kFormat, "{}: tokenizer.ggml.token_type: id {}: expected 1 to 6, found {}", name, id,
           type);
    }
    // 0 is "undefined"; writers that know no type leave it
    types[id] = type == 0 ? GgufTokenType::kNormal : static_cast<GgufTokenType>(type);
  }
  const auto mark = [&](std::optional<std::int32_t> id, GgufTokenType type) {
    if (!id) return;
    GgufTokenType& known = types[static_cast<std::size_t>(*id)];
    if (known == GgufTokenType::kNormal || known == GgufTokenType::kUnused) known = type;
  };
  mark(pieces.eos, GgufTokenType::kControl);
  // A file may name an ordinary token as a begin that it does not use.
  if (pieces.add_bos || pieces.types.empty()) mark(pieces.bos, GgufTokenType::kControl);
  if (pieces.model == "llama") mark(pieces.unk, GgufTokenType::kUnknown);
  return types;
}

Json added_token(std::size_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

std::vector<MergeRule> read_merges(const VocabularyPieces& pieces, const Vocabulary& vocabulary,
                                   const std::vector<GgufTokenType>& types, const std::string& name) {
  std::vector<MergeRule> merges;
  if (!pieces.merges.empty()) {
    merges.reserve(pieces.merges.size());
    const std::string field = name + ": tokenizer.ggml.merges";
    for (const std::string& line : pieces.merges) {
      check_utf8(line, field);
      merges.push_back(parse_merge(vocabulary, line, merges.size(), field));
    }
    return merges;
  }
  if (pieces.model == "gpt2") fail(ErrorCode::kFormat, "{}: tokenizer.ggml.merges: there are none", name);
  if (pieces.scores.empty()) {
    fail(ErrorCode::kFormat, "{}: tokenizer.ggml.scores: there are neither scores nor merges", name);
  }
  for (std::size_t id = 0; id < pieces.scores.size(); ++id) {
    if (std::isnan(pieces.scores[id])) {
      fail(ErrorCode::kFormat, "{}: tokenizer.ggml.scores: id {}: expected a number, found NaN", name, id);
    }
  }
  std::vector<bool> joins;
  joins.reserve(types.size());
  for (const GgufTokenType type : types) joins.push_back(type == GgufTokenType::kNormal);
  return merges_from_scores(vocabulary, pieces.scores, joins, name);
}

}  // namespace

Tokenizer tokenizer_from_pieces(const VocabularyPieces& pieces, std::string_view name) {
  const std::string file(name);
  const bool gpt2 = pieces.model == "gpt2";
  if (!gpt2 && pieces.model != "llama") {
    fail(ErrorCode::kFormat, "{}: tokenizer.ggml.model: expected gpt2 or llama, found {}", name,
         shown(pieces.model));
  }
  check_sizes(pieces, file);
  const std::vector<GgufTokenType> types = token_types(pieces, file);
  const std::string tokens_name = file + ": tokenizer.ggml.tokens";

  Vocabulary vocabulary(gpt2 ? Spelling::kByteAlphabet : Spelling::kText);
  vocabulary.reserve(pieces.tokens.size());
  Json added = Json::array();
  for (std::size_t id = 0; id < pieces.tokens.size(); ++id) {
    const std::string& token = pieces.tokens[id];
    const GgufTokenType type = types[id];
    if (gpt2 && type == GgufTokenType::kUnused) continue;
    check_utf8(token, tokens_name);
    vocabulary.add(token, static_cast<std::int64_t>(id), tokens_name);
    const bool special = type == GgufTokenType::kControl || type == GgufTokenType::kUnknown;
    if (special || type == GgufTokenType::kUserDefined) added.push_back(added_token(id, token, special));
  }

  Json frame = {{"version", "1.0"},
                {"truncation", nullptr},
                {"padding", nullptr},
                {"added_tokens", std::move(added)},
                {"normalizer", nullptr},
                {"pre_tokenizer", nullptr},
                {"post_processor", nullptr},
                {"decoder", nullptr},
                {"model",
                 {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false},
                  {"ignore_merges", false}}}};
  if (gpt2) {
    describe_gpt2(pieces, file, frame);
  } else {
    describe_llama(pieces, frame);
  }
  const auto token_of = [&](std::int32_t id) { return pieces.tokens[static_cast<std::size_t>(id)]; };
  if (pieces.add_bos && pieces.bos) {
    frame["post_processor"] = start_template(*pieces.bos, token_of(*pieces.bos));
  }
  std::vector<MergeRule> merges = read_merges(pieces, vocabulary, types, file);
  Json config = Json::object();
  const auto special = [&](std::int32_t id) {
    return types[static_cast<std::size_t>(id)] != GgufTokenType::kNormal;
  };
  if (pieces.bos && special(*pieces.bos)) config["bos_token"] = token_of(*pieces.bos);
  if (pieces.eos) config["eos_token"] = token_of(*pieces.eos);
  Tokenizer tokenizer =
      Tokenizer::from_model(std::move(frame), std::move(vocabulary), std::move(merges), name);
  tokenizer = tokenizer.with_config(config.dump(), name);
  if (pieces.chat_template) {
    check_utf8(*pieces.chat_template, file + ": tokenizer.chat_template");
    tokenizer = tokenizer.with_chat_template(*pieces.chat_template);
  }
  return tokenizer;
}

Tokenizer Tokenizer::from_llama2c(std::string_view bytes, std::int32_t vocab_size, std::string_view name) {
  static_assert(std::endian::native == std::endian::little);
  const std::size_t size = bytes.size();
  const auto read = [&](auto& value, std::string_view what) {
    if (bytes.size() < sizeof value) {
      fail(ErrorCode::kFormat, "{}: byte {}: expected {}, found the end of the file", name,
           size - bytes.size(), what);
    }
    std::memcpy(&value, bytes.data(), sizeof value);
    bytes.remove_prefix(sizeof value);
  };
  if (vocab_size < 3 || vocab_size > Vocabulary::kMaxId) {
    fail(ErrorCode::kFormat, "{}: expected a vocabulary of 3 to {} tokens, found {}", name,
         Vocabulary::kMaxId, vocab_size);
  }
  std::int32_t longest = 0;
  read(longest, "the greatest length of a token");
  VocabularyPieces pieces;
  pieces.model = "llama";
  for (std::int32_t id = 0; id < vocab_size; ++id) {
    float score = 0;
    std::int32_t length = 0;
    read(score, "a score");
    read(length, "a length");
    if (length < 0 || static_cast<std::size_t>(length) > bytes.size()) {
      fail(ErrorCode::kFormat, "{}: token {}: expected a length of at most {} bytes, which follow, found {}",
           name, id, bytes.size(), length);
    }
    const std::string_view text = bytes.substr(0, static_cast<std::size_t>(length));
    bytes.remove_prefix(text.size());
    std::string token;
    for (const char c : text) {
      if (c == ' ') {
        token += kSpaceMark;
      } else {
        token += c;
      }
    }
    // The file holds the two with line ends around them, for looks.
    if (id == 1) token = "<s>";
    if (id == 2) token = "</s>";
    const GgufTokenType type = id == 0                     ? GgufTokenType::kUnknown
                               : id <= 2                   ? GgufTokenType::kControl
                               : byte_of_token(token) >= 0 ? GgufTokenType::kByte
                                                           : GgufTokenType::kNormal;
    pieces.types.push_back(static_cast<std::int32_t>(type));
    pieces.tokens.push_back(std::move(token));
    pieces.scores.push_back(score);
  }
  if (!bytes.empty()) {
    fail(ErrorCode::kFormat, "{}: {} bytes after the last of {} tokens", name, bytes.size(), vocab_size);
  }
  pieces.unk = 0;
  pieces.bos = 1;
  pieces.eos = 2;
  pieces.add_bos = true;
  return tokenizer_from_pieces(pieces, name);
}

}  // namespace stem
