#include "train/evaluate.h"

#include <cmath>

#include "core/error.h"

namespace stem {
double sum_of_losses(In loss, double start) {
  double sum = start;
  for (std::int64_t i = 0; i < loss.cols; ++i)
    sum += loss.dtype == DType::f64 ? loss.row<double>(0)[i] : static_cast<double>(loss.row<float>(0)[i]);
  return sum;
}

double EvalResult::perplexity() const {
  return std::exp(loss);
}

EvalResult evaluate_loss(const Context& context, const Model& model, const TokenShard& shard,
                         const BatchOptions& options, const Table* table, const Overlay* overlay,
                         std::int64_t max_tokens,
                         const std::function<void(std::span<const std::int32_t> tokens,
                                                  const std::function<void()>& run)>& with_batch) {
  EvalResult result;
  double sum = 0.0;
  Batch batch;
  const auto run = [&] {
    Workspace::Scope scope(*context.workspace);
    const TokenBatch view = batch.view();
    const RowPlan rows(table == nullptr ? model.table : *table, view, overlay);
    Activations a = allocate_activations(context, model, view.size());
    forward_hidden(context, model, view, rows, a);
    const Out loss = context.workspace->matrix(model.precision.wide, 1, view.size());
    forward_loss(context, model, a, batch.targets, loss);
    sum = sum_of_losses(loss, sum);
    for (const std::int32_t t : batch.targets) result.targets += t >= 0;
  };
  const auto finish_batch = [&] {
    if (batch.tokens.empty()) return;
    if (with_batch)
      with_batch(batch.tokens, run);
    else
      run();
    batch = {};
  };
  // Documents in file order, as many whole segments a batch as fit.
  std::int64_t seen = 0;
  for (std::int64_t d = 0; d < shard.document_count(); ++d) {
    const auto i = static_cast<std::size_t>(d);
    for (std::int64_t first = shard.documents[i]; first < shard.documents[i + 1];
         first += options.max_sequence) {
      const std::int64_t count = std::min(options.max_sequence, shard.documents[i + 1] - first);
      if (max_tokens > 0 && seen + count > max_tokens) break;
      if (static_cast<std::int64_t>(batch.tokens.size()) + count > options.tokens_per_step) finish_batch();
      append_sequence(batch, shard, first, count);
      seen += count;
    }
  }
  finish_batch();
  if (result.targets == 0) fail(ErrorCode::kFormat, "evaluation: the shard holds no target token");
  result.loss = sum / static_cast<double>(result.targets);
  return result;
}

}  // namespace stem
