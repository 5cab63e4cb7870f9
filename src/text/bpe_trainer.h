// Learns a byte-level BPE tokenizer from text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace stem {

struct BpeTrainerOptions {
  std::int32_t vocab_size = 32000;  ///< tokens in all, at least the special ones and 256 bytes
  std::int64_t min_frequency = 0;   ///< pairs seen less often are not merged
  std::vector<std::string> special_tokens{"<|endoftext|>"};  ///< get the ids 0, 1, …
  std::string pattern;  ///< the pre-tokenizer's regular expression; empty: GPT-2's
  bool nfc = false;     ///< normalise texts to NFC, in training and in the tokenizer made
};

/// Gives the next text, or returns false at the end. The view must stay valid until the next call.
using NextText = std::function<bool(std::string_view& text)>;

/// Trains on well-formed UTF-8 texts (Error kFormat otherwise, with the number of the text). Words never
/// cross texts; special tokens written in a text count as ordinary text. While the vocabulary is below
/// vocab_size, the pair of tokens with the highest count within words (of equal ones the lowest left id, then
/// right id) becomes a token. Ids: special tokens, the 256 bytes in the order of their characters in the byte
/// alphabet, merges. The result equals that of Hugging Face's BpeTrainer with ByteLevel.alphabet() as initial
/// alphabet. Fewer tokens than vocab_size come out when no pair is left. Memory grows with the number of
/// distinct words.
Tokenizer train_bpe(const NextText& next_text, const BpeTrainerOptions& options);
Tokenizer train_bpe(std::span<const std::string_view> texts, const BpeTrainerOptions& options);

}  // namespace stem
