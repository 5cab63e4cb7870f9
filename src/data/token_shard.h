// Tokenised text on disk: documents as runs of token ids. Format: docs/formats/tokens.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace stem {

/// Documents one behind the other. Every document starts with the end-of-text token, so that a model learns
/// where texts begin and the target of a document's last token is the next document's first: "end of text".
struct TokenShard {
  std::vector<std::int32_t> tokens;     ///< [n]
  std::vector<std::int64_t> documents;  ///< [d + 1], document i is tokens[documents[i] .. documents[i+1])
  std::vector<std::uint8_t>
      loss_mask;                 ///< [n], 1: this token is a target, 0: read only; empty: all are targets
  std::string tokenizer_digest;  ///< hex SHA-256 of the tokenizer.json that made the ids

  std::int64_t size() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t document_count() const { return static_cast<std::int64_t>(documents.size()) - 1; }
  /// Whether a model is trained to predict token i from those before it.
  bool is_target(std::int64_t i) const {
    return loss_mask.empty() || loss_mask[static_cast<std::size_t>(i)] != 0;
  }
  /// Appends one document: `start` then `ids`, all targets.
  void append(std::int32_t start, const std::vector<std::int32_t>& ids);
  /// The same with a mask: `is_target` [ids.size()], 0 or 1. `start` is a target, as in plain text, if
  /// `start_is_target`.
  void append(std::int32_t start, const std::vector<std::int32_t>& ids,
              const std::vector<std::uint8_t>& is_target, bool start_is_target = false);

  TokenShard() : documents{0} {}
};

/// Writes `shard` whole or not at all.
void save_shard(const std::filesystem::path& path, const TokenShard& shard);

/// Reads a shard. Throws kFormat when offsets are not ascending or do not cover the tokens, when a loss mask
/// holds other values than 0 and 1 or another number of them, when the content does not have the digest that
/// the file states, kMismatch when an id is not in [0, vocab) or the tokenizer's digest is not
/// `tokenizer_digest` (empty: not checked).
TokenShard load_shard(const std::filesystem::path& path, std::int64_t vocab,
                      const std::string& tokenizer_digest);

}  // namespace stem
