// The mean loss of a model on a text.
#pragma once

#include <cstdint>
#include <functional>

#include "data/batches.h"
#include "model/forward.h"

namespace stem {

/// start + Σ loss [1, N] wide, one by one in f64.
double sum_of_losses(In loss, double start = 0.0);

struct EvalResult {
  double loss = 0.0;  ///< nats a target
  std::int64_t targets = 0;
  double perplexity() const;
};

/// Mean loss in nats over all targets of `shard`, documents as segments, with the training kernels.
/// `table` may replace the model's table (null: the model's own). `max_tokens` 0: all. `with_batch`, when
/// given, is called with each batch's tokens and must call what it is handed. Throws kFormat when the shard
/// has no target.
EvalResult evaluate_loss(const Context& context, const Model& model, const TokenShard& shard,
                         const BatchOptions& options, const Table* table = nullptr,
                         const Overlay* overlay = nullptr, std::int64_t max_tokens = 0,
                         const std::function<void(std::span<const std::int32_t> tokens,
                                                  const std::function<void()>& run)>& with_batch = {});

}  // namespace stem
