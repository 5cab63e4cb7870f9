// Merge rules as files state them, and from scores where a file states none.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"
#include "text/vocabulary.h"

namespace stem {

constexpr std::size_t kMaxMerges = 4'000'000;

/// The rule that joins `left` and `right`, written as in a tokenizer.json. Error (kFormat) `name: merge
/// index:` if one of them or the two together are not in the vocabulary.
MergeRule make_merge(const Vocabulary& vocabulary, std::string_view left, std::string_view right,
                     std::size_t index, const std::string& name);

/// The same from a line with one space between the two.
MergeRule parse_merge(const Vocabulary& vocabulary, std::string_view line, std::size_t index,
                      const std::string& name);

/// The rules of a SentencePiece BPE model, which stores a score per token instead: every pair of tokens that
/// together are a token, by falling score of the result, then by falling length (in characters) of the left
/// and of the right part, then by the ids of result, left and right. `scores` by id; only ids with `joins`
/// are results or parts. Tokens of more than kMaxJoinedBytes are no results. Error (kFormat) beyond
/// kMaxMerges.
/// Source: the conversion of SentencePiece models in Hugging Face's transformers
std::vector<MergeRule> merges_from_scores(const Vocabulary& vocabulary, std::span<const float> scores,
                                          const std::vector<bool>& joins, const std::string& name);
constexpr std::size_t kMaxJoinedBytes = 256;

}  // namespace stem
