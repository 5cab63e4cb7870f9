#include "text/bpe.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "text/token_decoder.h"
#include "text/utf8.h"

namespace stem {
namespace {

// Up to here the quadratic loop over a small array beats the heap.
constexpr std::size_t kShortWord = 48;

}  // namespace

const std::vector<std::int32_t>* WordCache::find(std::string_view word) const {
  if (word.size() > kMaxWordBytes) return nullptr;
  const auto found = words_.find(word);
  return found == words_.end() ? nullptr : &found->second;
}

void WordCache::insert(std::string_view word, const std::int32_t* ids, std::size_t count) {
  if (word.size() > kMaxWordBytes) return;
  // Starting over is cheaper than keeping an order of use: frequent words are back at once.
  if (words_.size() >= kMaxWords) words_.clear();
  words_.emplace(word, std::vector<std::int32_t>(ids, ids + count));
}

Bpe::Bpe(Vocabulary vocabulary, std::vector<MergeRule> merges, const BpeSettings& settings)
    : vocabulary_(std::move(vocabulary)), rules_(merges.size()), settings_(settings) {
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const MergeRule& rule = merges[rank];
    rules_[pair_key(rule.left, rule.right)] = {static_cast<std::uint32_t>(rank), rule.result};
  }
  merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const MergeRule& rule = merges[rank];
    if (look_up(rule.left, rule.right).rank == rank) merges_.push_back(rule);
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(static_cast<unsigned char>(byte));
    const std::int32_t single = vocabulary_.find_bytes({&c, 1}).value_or(-1);
    if (byte < ascii_ids_.size()) ascii_ids_[byte] = single;
    byte_ids_[byte] = single;
    if (vocabulary_.spelling() == Spelling::kText) {
      const std::string written = token_of_byte(static_cast<unsigned char>(byte));
      byte_ids_[byte] = settings_.byte_fallback ? vocabulary_.find_written(written).value_or(-1) : -1;
    }
  }
}

void Bpe::append_bytes(std::string_view word, std::vector<std::int32_t>& ids) const {
  for (const char c : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id < 0) {
      fail(ErrorCode::kMismatch, "the tokenizer has no token for byte 0x{:02X}",
           static_cast<unsigned char>(c));
    }
    ids.push_back(id);
  }
}

void Bpe::append_characters(std::string_view word, std::vector<std::int32_t>& ids) const {
  bool unknown = false;  // whether one waits, to be fused with those that follow
  while (!word.empty()) {
    const Utf8Step step = utf8_step(word);
    const bool well_formed = step.kind == Utf8Step::Kind::kCharacter;
    const std::string_view character = word.substr(0, well_formed ? step.length : 1);
    word.remove_prefix(character.size());
    const auto first = static_cast<unsigned char>(character.front());
    std::int32_t id = -1;
    if (first < ascii_ids_.size()) {
      id = ascii_ids_[first];
    } else if (well_formed) {
      id = vocabulary_.find_bytes(character).value_or(-1);
    }
    if (id >= 0) {
      if (std::exchange(unknown, false)) ids.push_back(*settings_.unknown);
      ids.push_back(id);
      continue;
    }
    const auto has_token = [&](char c) { return has_byte(static_cast<unsigned char>(c)); };
    if (std::all_of(character.begin(), character.end(), has_token)) {
      // An unknown token that waits comes after them, as in Hugging Face's library.
      for (const char c : character) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else if (settings_.unknown) {
      if (unknown && !settings_.fuse_unknown) ids.push_back(*settings_.unknown);
      unknown = true;
    } else if (well_formed) {
      fail(ErrorCode::kMismatch, "the tokenizer has no token for U+{:04X}",
           static_cast<std::uint32_t>(step.code));
    } else {
      append_bytes(character, ids);  // says which byte
    }
  }
  if (unknown) ids.push_back(*settings_.unknown);
}

void Bpe::encode_word(std::string_view word, WordCache& cache, std::vector<std::int32_t>& ids) const {
  if (const std::vector<std::int32_t>* known = cache.find(word)) {
    ids.insert(ids.end(), known->begin(), known->end());
    return;
  }
  const std::size_t first = ids.size();
  const std::optional<std::int32_t> whole =
      settings_.ignore_merges ? vocabulary_.find_bytes(word) : std::nullopt;
  if (whole) {
    ids.push_back(*whole);
  } else {
    if (vocabulary_.spelling() == Spelling::kText) {
      append_characters(word, ids);
    } else {
      append_bytes(word, ids);
    }
    if (word.size() <= kShortWord) {
      merge_short(ids, first);
    } else {
      merge_long(ids, first);
    }
  }
  cache.insert(word, ids.data() + first, ids.size() - first);
}

void Bpe::merge_short(std::vector<std::int32_t>& ids, std::size_t first) const {
  std::size_t count = ids.size() - first;
  std::int32_t* symbols = ids.data() + first;
  std::array<Ranked, kShortWord> pairs;  // pairs[i]: the rule for symbols i and i + 1
  for (std::size_t i = 0; i + 1 < count; ++i) pairs[i] = look_up(symbols[i], symbols[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    symbols[best] = pairs[best].result;
    std::copy(symbols + best + 2, symbols + count, symbols + best + 1);
    std::copy(pairs.begin() + static_cast<std::ptrdiff_t>(best) + 1,
              pairs.begin() + static_cast<std::ptrdiff_t>(count) - 1,
              pairs.begin() + static_cast<std::ptrdiff_t>(best));
    --count;
    if (best > 0) pairs[best - 1] = look_up(symbols[best - 1], symbols[best]);
    if (best + 1 < count) pairs[best] = look_up(symbols[best], symbols[best + 1]);
  }
  ids.resize(first + count);
}

void Bpe::merge_long(std::vector<std::int32_t>& ids, std::size_t first) const {
  // A doubly linked list over the symbols and a heap of joinable pairs (rank, position of the left one). An
  // entry is stale when its pair has changed since, which its rank tells.
  constexpr std::size_t kNone = ~std::size_t{0};
  struct Symbol {
    std::int32_t id;
    std::size_t previous, next;
  };
  const std::size_t count = ids.size() - first;
  std::vector<Symbol> symbols(count);
  for (std::size_t i = 0; i < count; ++i) {
    symbols[i] = {ids[first + i], i == 0 ? kNone : i - 1, i + 1 == count ? kNone : i + 1};
  }
  using Entry = std::pair<std::uint32_t, std::size_t>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap;
  const auto rule_at = [&](std::size_t i) {
    if (symbols[i].id < 0 || symbols[i].next == kNone) return Ranked{};
    return look_up(symbols[i].id, symbols[symbols[i].next].id);
  };
  const auto push = [&](std::size_t i) {
    const Ranked rule = rule_at(i);
    if (rule.rank != kNoRank) heap.emplace(rule.rank, i);
  };
  for (std::size_t i = 0; i + 1 < count; ++i) push(i);
  while (!heap.empty()) {
    const auto [rank, at] = heap.top();
    heap.pop();
    const Ranked rule = rule_at(at);
    if (rule.rank != rank) continue;
    const std::size_t removed = symbols[at].next;
    symbols[at].id = rule.result;
    symbols[at].next = symbols[removed].next;
    if (symbols[at].next != kNone) symbols[symbols[at].next].previous = at;
    symbols[removed].id = -1;
    if (symbols[at].previous != kNone) push(symbols[at].previous);
    push(at);
  }
  std::size_t out = first;
  for (std::size_t i = 0; i != kNone; i = symbols[i].next) ids[out++] = symbols[i].id;
  ids.resize(out);
}

}  // namespace stem
