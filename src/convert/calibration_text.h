// The text that a conversion learns from: equal sequences, each begun as the model expects a text to begin.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/batch.h"

namespace stem {

/// Sequences of T tokens, run in batches. Every sequence begins with the model's start token: its residual
/// state is far larger than any other's in many models, and only a calibrated row reproduces it.
class CalibrationText {
 public:
  /// `tokens`: sequences of `sequence` tokens, one behind the other; `per_batch` of them are run at once.
  CalibrationText(std::vector<std::int32_t> tokens, std::int64_t sequence, std::int64_t per_batch = 8);

  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }  ///< N
  std::int64_t sequence() const { return sequence_; }                              ///< T
  std::span<const std::int32_t> tokens() const { return tokens_; }                 ///< [N]
  std::span<const std::int32_t> distinct() const { return distinct_; }  ///< [R] ids that occur, ascending
  /// Place of a token of the text among the distinct ones; −1 for others. [largest id + 1]
  std::int64_t place(std::int32_t token) const;
  bool begins_sequences(std::int32_t token) const { return size() > 0 && token == tokens_.front(); }
  std::span<const std::int64_t> counts() const { return counts_; }  ///< [R] occurrences of each

  std::int64_t batches() const { return (size() + batch_size() - 1) / batch_size(); }
  std::int64_t batch_size() const { return per_batch_ * sequence_; }  ///< positions, but for the last batch
  std::int64_t first(std::int64_t batch) const { return batch * batch_size(); }  ///< position in the text
  TokenBatch batch(std::int64_t batch) const;
  /// [N] the token after each position of its sequence; −1 at a sequence's end and, since nothing can be
  /// known there, behind its start token.
  const std::vector<std::int32_t>& targets() const { return targets_; }

 private:
  std::vector<std::int32_t> tokens_, positions_, targets_, distinct_, places_;
  std::vector<std::int64_t> counts_;
  std::vector<Segment> segments_;
  std::int64_t sequence_, per_batch_;
};

/// Cuts `tokens` into pieces, puts `start` before each (< 0: nothing), and divides the sequences of T tokens
/// that come of it among texts: every `share`-th goes to `held_out`, the others to `calibration`, and what
/// that leaves to `further`; of each no more than its limit, spread evenly. A rest shorter than T is left
/// out.
struct DividedText {
  std::vector<std::int32_t> calibration, held_out, further;
};
DividedText divide_text(std::span<const std::int32_t> tokens, std::int32_t start, std::int64_t sequence,
                        std::int64_t share, std::int64_t calibration_limit, std::int64_t held_out_limit,
                        std::int64_t further_limit = 0);

}  // namespace stem
