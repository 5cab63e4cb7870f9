#include "tables/row_plan.h"

namespace stem {

RowPlan::RowPlan(const Table& table, const TokenBatch& batch, const Overlay* overlay)
    : table_(&table), tokens_(batch.tokens) {
  const std::int64_t n = batch.size();
  const std::int64_t layers = table.shape().layers;
  rows_.resize(static_cast<std::size_t>(n * layers));
  for (std::int64_t s = 0; s < layers; ++s) {
    for (std::int64_t i = 0; i < n; ++i) {
      rows_[static_cast<std::size_t>(s * n + i)] = table.row(tokens_[static_cast<std::size_t>(i)], s);
    }
  }
  if (overlay == nullptr || overlay->empty()) return;
  for (std::size_t g = 0; g < batch.segments.size(); ++g) {
    const Segment& segment = batch.segments[g];
    const std::int64_t cached = segment.k_len - segment.q_len;
    const std::int32_t* context =
        batch.contexts.empty() ? tokens_.data() + segment.q_row - cached : batch.contexts[g];
    require(cached == 0 || !batch.contexts.empty(), "cached keys need contexts");
    for (std::int64_t i = 0; i < segment.q_len; ++i) {
      const std::span<const std::int32_t> before(context, static_cast<std::size_t>(cached + i));
      const std::int64_t position = segment.q_row + i;
      for (std::int64_t s = 0; s < layers; ++s) {
        const auto* values = overlay->find(tokens_[static_cast<std::size_t>(position)], s, before);
        if (values != nullptr) redirect(position, s, values->data());
      }
    }
  }
}

void RowPlan::redirect(std::int64_t position, std::int64_t layer, const float* values) {
  const auto n = static_cast<std::int64_t>(tokens_.size());
  rows_[static_cast<std::size_t>(layer * n + position)] = {values, 1.0f, DType::f32};
}

void RowPlan::redirect_record(std::int64_t position, std::int32_t donor) {
  const auto n = static_cast<std::int64_t>(tokens_.size());
  for (std::int64_t s = 0; s < table_->shape().layers; ++s) {
    rows_[static_cast<std::size_t>(s * n + position)] = table_->row(donor, s);
  }
}

RowPointers RowPlan::acquire(std::int64_t s) const {
  const auto n = static_cast<std::int64_t>(tokens_.size());
  return {rows_.data() + s * n, n, table_->shape().width};
}

}  // namespace stem
