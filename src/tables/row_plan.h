// Which row each position of a batch reads in each STEM layer: the table's own, an overlay's, or one set by
// hand.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/batch.h"
#include "tables/overlay.h"
#include "tables/table.h"

namespace stem {

/// Row pointers of one batch. Built before the forward pass from the token ids alone, so everything that must
/// be fetched is known before the first layer runs: the constructor starts the reads, the first `acquire`
/// waits for them, and the records stay in memory until the plan dies. The overlay must outlive the plan.
class RowPlan {
 public:
  /// `overlay` may be null. Triggers look at the ids before a position within its segment
  /// (TokenBatch::contexts when given, else the batch's own tokens). A record all of whose rows the overlay
  /// replaces is not read.
  RowPlan(const Table& table, const TokenBatch& batch, const Overlay* overlay = nullptr);

  /// Makes one position read `values` [F] f32 in one STEM layer. The memory must outlive the plan.
  void redirect(std::int64_t position, std::int64_t layer, const float* values);
  /// Makes one position read another token's record in every STEM layer.
  void redirect_record(std::int64_t position, std::int32_t donor);

  /// Hints that the records are wanted soon; the layer loop calls it before the layer that needs them.
  void prefetch() const;
  /// The rows of STEM layer s, ready to read until the plan dies. Waits for what is still being read. Throws
  /// RecordError naming the tokens and positions whose records cannot be had; never in a parallel region.
  RowPointers acquire(std::int64_t s) const;
  /// To be called when a pass is over: throws RecordError if rows that it read lay in a part of a mapped file
  /// that is lost (they read as zeros). What the pass computed at these positions, and what attends to them,
  /// is void.
  void verify() const;

 private:
  RowPointer& at(std::int64_t position, std::int64_t layer) const;
  void resolve() const;
  std::vector<std::int64_t> positions_of(const std::vector<std::int32_t>& tokens) const;

  Table table_;
  std::vector<std::int32_t> sources_;  // [N] whose record a position reads; kNone: no row of the table's
  // What acquire completes; to a caller it changes nothing.
  mutable std::vector<RowPointer> rows_;  // [S][N]; on disk and not yet read: kUnread
  mutable bool resolved_ = true;
  std::unique_ptr<RecordLease> lease_;  // of tables on disk
};

}  // namespace stem
