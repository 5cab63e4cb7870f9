// Which row each position of a batch reads in each STEM layer: the table's own, an overlay's, or one set by
// hand.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/batch.h"
#include "tables/overlay.h"
#include "tables/table.h"

namespace stem {

/// Row pointers of one batch. Built before the forward pass from the token ids alone, so everything that must
/// be fetched is known before the first layer runs. The overlay and the table must outlive the plan.
class RowPlan {
 public:
  /// `overlay` may be null. Triggers look at the ids before a position within its segment
  /// (TokenBatch::contexts when given, else the batch's own tokens).
  RowPlan(const Table& table, const TokenBatch& batch, const Overlay* overlay = nullptr);

  /// Makes one position read `values` [F] f32 in one STEM layer. The memory must outlive the plan.
  void redirect(std::int64_t position, std::int64_t layer, const float* values);
  /// Makes one position read another token's record in every STEM layer.
  void redirect_record(std::int64_t position, std::int32_t donor);

  /// Hints that the records are wanted soon; the layer loop calls it before the layer that needs them.
  void prefetch() const { table_->prefetch(tokens_); }
  /// The rows of STEM layer s, ready to read until the plan dies.
  RowPointers acquire(std::int64_t s) const;

 private:
  const Table* table_;
  std::span<const std::int32_t> tokens_;
  std::vector<RowPointer> rows_;  // [S][N]
};

}  // namespace stem
