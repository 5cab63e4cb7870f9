#include "data/batches.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace stem {

BatchStream::BatchStream(const TokenShard& shard, const BatchOptions& options)
    : shard_(shard), options_(options) {
  if (shard.size() < 2) fail(ErrorCode::kFormat, "the token shard holds no text: expected at least 2 tokens");
  require(options.tokens_per_step > 0 && options.max_sequence > 0, "batch size");
}

std::int64_t BatchStream::steps_per_epoch() const {
  return (shard_.size() + options_.tokens_per_step - 1) / options_.tokens_per_step;
}

void BatchStream::order_epoch(std::int64_t epoch) {
  if (epoch == epoch_) return;
  epoch_ = epoch;
  order_.resize(static_cast<std::size_t>(shard_.document_count()));
  std::iota(order_.begin(), order_.end(), 0);
  Rng rng(options_.seed, static_cast<std::uint64_t>(epoch));
  shuffle(order_, rng);
  starts_.assign(1, 0);
  for (const std::int64_t d : order_) {
    const auto i = static_cast<std::size_t>(d);
    starts_.push_back(starts_.back() + shard_.documents[i + 1] - shard_.documents[i]);
  }
}

Batch BatchStream::at(std::int64_t step) {
  const std::int64_t n = options_.tokens_per_step;
  std::int64_t offset = step * n;  // in the endless stream
  order_epoch(offset / shard_.size());
  offset %= shard_.size();
  auto document =
      static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), offset) - starts_.begin()) -
      1;

  Batch batch;
  bool starts_sequence = true;
  while (static_cast<std::int64_t>(batch.tokens.size()) <= n) {  // one token more: the last target
    if (offset == shard_.size()) {
      order_epoch(epoch_ + 1);
      offset = 0;
      document = 0;
    }
    while (starts_[document + 1] <= offset) ++document;
    const std::int64_t within = offset - starts_[document];
    const std::int64_t index = order_[document];
    const std::int64_t at = shard_.documents[static_cast<std::size_t>(index)] + within;
    const std::int32_t token = shard_.tokens[static_cast<std::size_t>(at)];
    // A token is the target of the one before it.
    if (!batch.tokens.empty()) batch.targets.push_back(shard_.is_target(at) ? token : -1);
    if (static_cast<std::int64_t>(batch.tokens.size()) < n) {
      if (batch.documents.empty() || batch.documents.back() != index) batch.documents.push_back(index);
      starts_sequence = starts_sequence || (options_.document_mask && within == 0) ||
                        batch.segments.back().q_len == options_.max_sequence;
      if (starts_sequence) {
        const auto row = static_cast<std::int64_t>(batch.tokens.size());
        batch.segments.push_back({row, 0, row, 0});
        starts_sequence = false;
      }
      Segment& segment = batch.segments.back();
      batch.positions.push_back(static_cast<std::int32_t>(segment.q_len));
      segment.k_len = ++segment.q_len;
    }
    batch.tokens.push_back(token);
    ++offset;
  }
  batch.tokens.pop_back();
  return batch;
}

void append_sequence(Batch& batch, const TokenShard& shard, std::int64_t first, std::int64_t count) {
  const auto row = static_cast<std::int64_t>(batch.tokens.size());
  batch.segments.push_back({row, count, row, count});
  for (std::int64_t i = first; i < first + count; ++i) {
    const bool has_target = i + 1 < first + count && shard.is_target(i + 1);
    batch.tokens.push_back(shard.tokens[static_cast<std::size_t>(i)]);
    batch.positions.push_back(static_cast<std::int32_t>(i - first));
    batch.targets.push_back(has_target ? shard.tokens[static_cast<std::size_t>(i + 1)] : -1);
  }
}

std::vector<Batch> split(const Batch& batch, std::int64_t parts) {
  const auto n = static_cast<std::int64_t>(batch.tokens.size());
  std::vector<Batch> all;
  for (const Segment& s : batch.segments) {
    // Part p begins with the first segment at or behind token p·n/parts.
    const auto p = static_cast<std::int64_t>(all.size());
    if (all.empty() || (p < parts && s.q_row * parts >= p * n)) {
      all.emplace_back();
      all.back().documents = batch.documents;  // of the whole step: what a report names
    }
    Batch& part = all.back();
    const auto row = static_cast<std::int64_t>(part.tokens.size());
    const auto append = [&](const std::vector<std::int32_t>& from, std::vector<std::int32_t>& to) {
      to.insert(to.end(), from.begin() + s.q_row, from.begin() + s.q_row + s.q_len);
    };
    append(batch.tokens, part.tokens);
    append(batch.positions, part.positions);
    append(batch.targets, part.targets);
    part.segments.push_back({row, s.q_len, row, s.q_len});
  }
  return all;
}

}  // namespace stem
