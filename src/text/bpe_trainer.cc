#include "text/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <unordered_set>
#include <utility>

#include "core/error.h"
#include "text/byte_alphabet.h"
#include "text/normalize.h"
#include "text/pair_map.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

namespace stem {
namespace {

/// The distinct words of the texts and the running counts of neighbouring tokens in them.
class MergeLearner {
 public:
  MergeLearner(const StringMap<std::int64_t>& words, std::vector<std::string> tokens);
  /// Joins pairs until there are `vocab_size` tokens or no pair has `min_frequency` (at least 1).
  void learn(std::size_t vocab_size, std::int64_t min_frequency);

  /// Written forms by id: those given, then what was learnt.
  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<MergeRule>& merges() const { return merges_; }

 private:
  struct Word {
    std::uint32_t begin, length;  // in symbols_; it shrinks in place
    std::int64_t count;
  };
  /// A pair that may be joined, its count when queued, and words in which it may be.
  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;
    std::vector<std::uint32_t> words;
  };
  struct Later {  // orders the heap: highest count, then lowest pair, first
    bool operator()(const Candidate& a, const Candidate& b) const {
      return a.count != b.count ? a.count < b.count : a.pair > b.pair;
    }
  };

  std::int32_t add_token(const std::string& written);
  void join(Word& word, std::uint32_t index, std::int32_t left, std::int32_t right, std::int32_t result);
  void change(std::int32_t left, std::int32_t right, std::int64_t by, std::uint32_t word);
  void queue_new_pairs();

  std::vector<std::string> tokens_;
  StringMap<std::int32_t> ids_;
  std::vector<std::int32_t> symbols_;
  std::vector<Word> words_;
  std::vector<MergeRule> merges_;
  PairMap<std::int64_t> counts_;
  PairMap<std::vector<std::uint32_t>> new_pairs_;  // pairs that came up since the last queueing, and where
  std::vector<Candidate> heap_;
};

MergeLearner::MergeLearner(const StringMap<std::int64_t>& words, std::vector<std::string> tokens)
    : tokens_(std::move(tokens)) {
  for (std::size_t id = 0; id < tokens_.size(); ++id)
    ids_.emplace(tokens_[id], static_cast<std::int32_t>(id));
  std::array<std::int32_t, 256> byte_ids;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(static_cast<unsigned char>(byte));
    byte_ids[byte] = ids_.find(to_alphabet({&c, 1}))->second;
  }
  for (const auto& [text, count] : words) {
    if (text.size() < 2) continue;
    if (symbols_.size() + text.size() > ~std::uint32_t{0}) {
      fail(ErrorCode::kUsage, "training a tokenizer: the distinct words exceed 4 GiB; use less text");
    }
    words_.push_back(
        {static_cast<std::uint32_t>(symbols_.size()), static_cast<std::uint32_t>(text.size()), count});
    for (const char c : text) symbols_.push_back(byte_ids[static_cast<unsigned char>(c)]);
  }
  for (std::uint32_t i = 0; i < words_.size(); ++i) {
    const std::int32_t* symbols = symbols_.data() + words_[i].begin;
    for (std::uint32_t k = 0; k + 1 < words_[i].length; ++k)
      change(symbols[k], symbols[k + 1], words_[i].count, i);
  }
  queue_new_pairs();
}

std::int32_t MergeLearner::add_token(const std::string& written) {
  const auto [where, added] = ids_.emplace(written, static_cast<std::int32_t>(tokens_.size()));
  if (added) tokens_.push_back(written);
  return where->second;
}

void MergeLearner::change(std::int32_t left, std::int32_t right, std::int64_t by, std::uint32_t word) {
  const std::uint64_t pair = pair_key(left, right);
  counts_[pair] += by;
  if (by <= 0) return;
  std::vector<std::uint32_t>& where = new_pairs_[pair];
  if (where.empty() || where.back() != word) where.push_back(word);
}

void MergeLearner::queue_new_pairs() {
  new_pairs_.for_each([&](std::uint64_t pair, std::vector<std::uint32_t>& words) {
    const std::int64_t count = counts_[pair];
    if (count <= 0) return;
    heap_.push_back({count, pair, std::move(words)});
    std::push_heap(heap_.begin(), heap_.end(), Later());
  });
  new_pairs_ = PairMap<std::vector<std::uint32_t>>();
}

void MergeLearner::join(Word& word, std::uint32_t index, std::int32_t left, std::int32_t right,
                        std::int32_t result) {
  std::int32_t* symbols = symbols_.data() + word.begin;
  std::uint32_t out = 0;
  for (std::uint32_t in = 0; in < word.length;) {
    if (symbols[in] != left || in + 1 == word.length || symbols[in + 1] != right) {
      symbols[out++] = symbols[in++];
      continue;
    }
    if (out > 0) {
      change(symbols[out - 1], left, -word.count, index);
      change(symbols[out - 1], result, word.count, index);
    }
    in += 2;
    if (in < word.length) {
      change(right, symbols[in], -word.count, index);
      change(result, symbols[in], word.count, index);
    }
    symbols[out++] = result;
  }
  word.length = out;
}

void MergeLearner::learn(std::size_t vocab_size, std::int64_t min_frequency) {
  while (tokens_.size() < vocab_size && !heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), Later());
    Candidate best = std::move(heap_.back());
    heap_.pop_back();
    const std::int64_t count = counts_[best.pair];
    if (best.count != count) {
      // Other merges took some of its occurrences: back into the queue with its count of today.
      best.count = count;
      heap_.push_back(std::move(best));
      std::push_heap(heap_.begin(), heap_.end(), Later());
      continue;
    }
    if (best.count < std::max<std::int64_t>(min_frequency, 1)) break;
    const auto left = static_cast<std::int32_t>(best.pair >> 32);
    const auto right = static_cast<std::int32_t>(best.pair & 0xFFFFFFFF);
    // The joined text may be a token already, made from other parts or special; then only a rule is added.
    // The pair's own count is left as it is: the reference does so, and such a token's pairs see the
    // difference.
    const std::int32_t result =
        add_token(tokens_[static_cast<std::size_t>(left)] + tokens_[static_cast<std::size_t>(right)]);
    merges_.push_back({left, right, result});
    for (const std::uint32_t index : best.words) join(words_[index], index, left, right, result);
    queue_new_pairs();
  }
}

std::vector<std::string> first_tokens(const BpeTrainerOptions& options) {
  std::vector<std::string> tokens;
  std::unordered_set<std::string> seen;
  for (const std::string& token : options.special_tokens) {
    check_utf8(token, "special token");
    if (token.empty()) fail(ErrorCode::kUsage, "training a tokenizer: a special token is empty");
    if (!seen.insert(token).second) {
      fail(ErrorCode::kUsage, "training a tokenizer: the special token {} is given twice", shown(token));
    }
    tokens.push_back(token);
  }
  std::vector<char32_t> alphabet(byte_alphabet().begin(), byte_alphabet().end());
  std::sort(alphabet.begin(), alphabet.end());
  for (const char32_t code : alphabet) {
    std::string written;
    append_utf8(code, written);
    if (seen.insert(written).second) tokens.push_back(written);
  }
  return tokens;
}

StringMap<std::int64_t> count_words(const NextText& next_text, const PreTokenizer& pre_tokenizer, bool nfc) {
  StringMap<std::int64_t> words;
  const auto count = [&](std::string_view word) {
    const auto found = words.find(word);
    if (found != words.end()) {
      ++found->second;
    } else {
      words.emplace(word, 1);
    }
  };
  std::string_view text;
  for (std::int64_t number = 0; next_text(text); ++number) {
    if (utf8_valid_prefix(text) != text.size()) check_utf8(text, fmt::format("training text {}", number));
    if (nfc && !surely_nfc(text)) {
      pre_tokenizer.for_each_word(to_nfc(text), count);
    } else {
      pre_tokenizer.for_each_word(text, count);
    }
  }
  return words;
}

}  // namespace

Tokenizer train_bpe(const NextText& next_text, const BpeTrainerOptions& options) {
  std::vector<std::string> tokens = first_tokens(options);
  if (options.vocab_size < static_cast<std::int32_t>(tokens.size()) ||
      options.vocab_size > Vocabulary::kMaxId) {
    fail(ErrorCode::kUsage,
         "training a tokenizer: vocab_size: expected {} (bytes and special tokens) to {}, found {}",
         tokens.size(), Vocabulary::kMaxId, options.vocab_size);
  }
  const Json description = PreTokenizer::describe(options.pattern);
  const PreTokenizer pre_tokenizer(description, "pattern");
  MergeLearner learner(count_words(next_text, pre_tokenizer, options.nfc), std::move(tokens));
  learner.learn(static_cast<std::size_t>(options.vocab_size), options.min_frequency);

  Json added = Json::array();
  for (std::size_t id = 0; id < options.special_tokens.size(); ++id) {
    added.push_back({{"id", id},
                     {"content", options.special_tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  Json frame = {{"version", "1.0"},
                {"truncation", nullptr},
                {"padding", nullptr},
                {"added_tokens", std::move(added)},
                {"normalizer", options.nfc ? Json{{"type", "NFC"}} : Json()},
                {"pre_tokenizer", description},
                {"post_processor", nullptr},
                {"decoder", PreTokenizer::describe("")}};
  Vocabulary vocabulary;
  vocabulary.reserve(learner.tokens().size());
  for (std::size_t id = 0; id < learner.tokens().size(); ++id) {
    vocabulary.add(learner.tokens()[id], static_cast<std::int64_t>(id), "trained vocabulary");
  }
  return Tokenizer::from_model(std::move(frame), std::move(vocabulary), learner.merges(),
                               "trained tokenizer");
}

Tokenizer train_bpe(std::span<const std::string_view> texts, const BpeTrainerOptions& options) {
  std::size_t at = 0;
  return train_bpe(
      [&](std::string_view& text) {
        if (at == texts.size()) return false;
        text = texts[at++];
        return true;
      },
      options);
}

}  // namespace stem
