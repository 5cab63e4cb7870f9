// Batches as a pure function of (seed, step): shuffled documents, packed without padding.
#pragma once

#include <cstdint>
#include <vector>

#include "core/batch.h"
#include "data/token_shard.h"

namespace stem {

struct BatchOptions {
  std::int64_t tokens_per_step = 2048;  ///< N
  std::int64_t max_sequence = 256;      ///< longest segment, T
  bool document_mask = true;            ///< off: segments of T tokens that cross documents
  std::uint64_t seed = 1;
};

/// One step's tokens. Targets are the next token of the stream, -1 where there is none or the shard's loss
/// mask says that it is none.
struct Batch {
  std::vector<std::int32_t> tokens, positions, targets;  // [N]
  std::vector<Segment> segments;
  std::vector<std::int64_t> documents;  ///< index of each document that the batch touches, in order

  TokenBatch view() const { return {tokens, positions, segments, {}}; }
};

/// The endless stream of a shard: epoch e is the documents in an order drawn from (seed, e). Step k reads
/// tokens [k·N, (k+1)·N) of it; documents longer than T, or cut by a step's end, go on as a new segment.
class BatchStream {
 public:
  BatchStream(const TokenShard& shard, const BatchOptions& options);
  Batch at(std::int64_t step);
  std::int64_t steps_per_epoch() const;  ///< rounded up

 private:
  void order_epoch(std::int64_t epoch);

  const TokenShard& shard_;
  BatchOptions options_;
  std::int64_t epoch_ = -1;
  std::vector<std::int64_t> order_;   // documents of the epoch in order_
  std::vector<std::int64_t> starts_;  // [d + 1] stream offset of each
};

/// Appends tokens [first, first + count) of `shard` as one segment, positions from 0: for evaluation. The
/// last one has no target.
void append_sequence(Batch& batch, const TokenShard& shard, std::int64_t first, std::int64_t count);

/// `batch` cut between its segments into at most `parts` batches of about equal size, in order: the
/// micro-batches of one step. The sum of their gradients is the gradient of `batch`.
std::vector<Batch> split(const Batch& batch, std::int64_t parts);

}  // namespace stem
