// Tokenizers from the pieces that other formats carry: a GGUF file's metadata, llama2.c's tokenizer file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace stem {

/// The tokenizer.* metadata of a GGUF file, as they stand there.
struct VocabularyPieces {
  std::string model;                ///< "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
  std::string pre;                  ///< how "gpt2" cuts text into words: "smollm", "llama-bpe", "qwen2", …
  std::vector<std::string> tokens;  ///< by id
  std::vector<std::string> merges;  ///< "left right", by rank
  std::vector<float> scores;        ///< by id; needed for "llama" where there are no merges
  std::vector<std::int32_t> types;  ///< by id; empty where the file has none (all normal)
  std::optional<std::int32_t> bos, eos, unk;
  bool add_bos = false;          ///< becomes Tokenizer::prefix_ids
  bool add_space_prefix = true;  ///< "llama" only: a space in front of every text
  std::optional<std::string> chat_template;
};

/// What a token of a GGUF file is.
enum class GgufTokenType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// The tokenizer that the pieces describe; its to_json() is a tokenizer.json which Hugging Face's library
/// reads. Control and unknown tokens become special added tokens, user defined ones plain added tokens; a
/// "gpt2" vocabulary's unused ids are left out (padding rows). A control token is never the result of a
/// merge. Error (kFormat) `name: field: …` that names a model or `pre` it does not know and those it does,
/// an id out of range, ill-formed UTF-8, duplicate tokens, or vectors that do not fit together.
Tokenizer tokenizer_from_pieces(const VocabularyPieces& pieces, std::string_view name);

}  // namespace stem
