// Byte-pair encoding of single words.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/pair_map.h"
#include "text/vocabulary.h"

namespace stem {

/// A rule that joins two neighbouring tokens into one; its place in the list is its rank.
struct MergeRule {
  std::int32_t left, right;
  std::int32_t result;
};

/// Words encoded before, so that common ones cost one look-up. Bounded. Not for use by two threads at once.
class WordCache {
 public:
  /// The ids of `word`, or null.
  const std::vector<std::int32_t>* find(std::string_view word) const;
  void insert(std::string_view word, const std::int32_t* ids, std::size_t count);

 private:
  static constexpr std::size_t kMaxWordBytes = 64, kMaxWords = 1 << 16;
  StringMap<std::vector<std::int32_t>> words_;
};

/// The settings of a BPE model. The last three apply to a vocabulary of text only.
struct BpeSettings {
  bool ignore_merges = false;  ///< a word that is a token as a whole becomes it, whatever the rules
  bool byte_fallback = false;  ///< a character without a token becomes the tokens of its bytes, <0xNN>
  std::optional<std::int32_t> unknown;  ///< what stands for a character without any
  bool fuse_unknown = false;            ///< one for a row of such characters
};

/// A vocabulary with its merge rules. Immutable and safe to share between threads.
class Bpe {
 public:
  /// `merges` in order of rank; of equal pairs the last one counts.
  Bpe(Vocabulary vocabulary, std::vector<MergeRule> merges, const BpeSettings& settings);

  const Vocabulary& vocabulary() const { return vocabulary_; }
  const std::vector<MergeRule>& merges() const { return merges_; }  ///< no pair occurs twice

  /// Appends the ids of `word` (any bytes) to `ids`: one token per byte, or, of a vocabulary of text, per
  /// character; then, while some neighbours have a rule, the pair of lowest rank, leftmost first, is joined.
  /// Time O(n log n). Error (kMismatch) if a byte or character of the word has no token, nor one that stands
  /// for it.
  void encode_word(std::string_view word, WordCache& cache, std::vector<std::int32_t>& ids) const;

  /// Whether a byte value has a token of its own.
  bool has_byte(unsigned char byte) const { return byte_ids_[byte] >= 0; }

 private:
  struct Ranked {
    std::uint32_t rank = kNoRank;
    std::int32_t result = -1;
  };
  static constexpr std::uint32_t kNoRank = ~std::uint32_t{0};

  Ranked look_up(std::int32_t left, std::int32_t right) const {
    const Ranked* found = rules_.find(pair_key(left, right));
    return found != nullptr ? *found : Ranked{};
  }
  void append_bytes(std::string_view word, std::vector<std::int32_t>& ids) const;
  void append_characters(std::string_view word, std::vector<std::int32_t>& ids) const;
  void merge_short(std::vector<std::int32_t>& ids, std::size_t first) const;
  void merge_long(std::vector<std::int32_t>& ids, std::size_t first) const;

  Vocabulary vocabulary_;
  std::vector<MergeRule> merges_;
  PairMap<Ranked> rules_;
  std::array<std::int32_t, 256> byte_ids_;   // -1 where there is none
  std::array<std::int32_t, 128> ascii_ids_;  // of characters
  BpeSettings settings_;
};

}  // namespace stem
