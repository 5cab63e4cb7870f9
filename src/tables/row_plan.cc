#include "tables/row_plan.h"

#include <algorithm>

#include "tables/record_error.h"

namespace stem {
namespace {

constexpr std::int32_t kNone = -1;

// Stands in for a row that is still on disk: an address that no row has (null is a row of zeros).
const char unread_mark = 0;
const void* const kUnread = &unread_mark;

}  // namespace

RowPlan::RowPlan(const Table& table, const TokenBatch& batch, const Overlay* overlay)
    : table_(table), sources_(batch.tokens.begin(), batch.tokens.end()) {
  const std::int64_t n = batch.size();
  const std::int64_t layers = table.shape().layers;
  const bool stored = table.store() != nullptr;
  rows_.resize(static_cast<std::size_t>(n * layers));
  for (std::int64_t s = 0; s < layers; ++s) {
    for (std::int64_t i = 0; i < n; ++i) {
      at(i, s) = stored ? RowPointer{kUnread, 1.0f, table.dtype(), table.stored()}
                        : table.row(sources_[static_cast<std::size_t>(i)], s);
    }
  }
  const bool overlaid = overlay != nullptr && !overlay->empty();
  for (std::size_t g = 0; overlaid && g < batch.segments.size(); ++g) {
    const Segment& segment = batch.segments[g];
    const std::int64_t cached = segment.k_len - segment.q_len;
    const std::int32_t* context =
        batch.contexts.empty() ? batch.tokens.data() + segment.q_row - cached : batch.contexts[g];
    require(cached == 0 || !batch.contexts.empty(), "cached keys need contexts");
    for (std::int64_t i = 0; i < segment.q_len; ++i) {
      const std::span<const std::int32_t> before(context, static_cast<std::size_t>(cached + i));
      const std::int64_t position = segment.q_row + i;
      std::int64_t replaced = 0;
      for (std::int64_t s = 0; s < layers; ++s) {
        const auto* values = overlay->find(batch.tokens[static_cast<std::size_t>(position)], s, before);
        if (values == nullptr) continue;
        redirect(position, s, values->data());
        ++replaced;
      }
      if (replaced == layers) sources_[static_cast<std::size_t>(position)] = kNone;
    }
  }
  if (!stored) return;
  std::vector<std::int32_t> wanted;
  wanted.reserve(sources_.size());
  std::copy_if(sources_.begin(), sources_.end(), std::back_inserter(wanted),
               [](std::int32_t t) { return t != kNone; });
  lease_ = std::make_unique<RecordLease>(table.store());
  lease_->add(wanted);
  resolved_ = wanted.empty();
}

RowPointer& RowPlan::at(std::int64_t position, std::int64_t layer) const {
  const auto n = static_cast<std::int64_t>(sources_.size());
  return rows_[static_cast<std::size_t>(layer * n + position)];
}

void RowPlan::redirect(std::int64_t position, std::int64_t layer, const float* values) {
  at(position, layer) = {values, 1.0f, DType::f32};
}

void RowPlan::redirect_record(std::int64_t position, std::int32_t donor) {
  const bool stored = lease_ != nullptr;
  if (stored) {
    lease_->add({&donor, 1});
    resolved_ = false;
  }
  sources_[static_cast<std::size_t>(position)] = donor;
  for (std::int64_t s = 0; s < table_.shape().layers; ++s)
    at(position, s) =
        stored ? RowPointer{kUnread, 1.0f, table_.dtype(), table_.stored()} : table_.row(donor, s);
}

void RowPlan::prefetch() const {
  if (lease_ != nullptr || !table_.present()) return;  // the constructor has started the reads
  std::vector<std::int32_t> wanted;
  std::copy_if(sources_.begin(), sources_.end(), std::back_inserter(wanted),
               [](std::int32_t t) { return t != kNone; });
  table_.prefetch(wanted);
}

// Positions with a row of the table's that read one of these records.
std::vector<std::int64_t> RowPlan::positions_of(const std::vector<std::int32_t>& tokens) const {
  std::vector<std::int64_t> positions;
  for (std::size_t i = 0; i < sources_.size(); ++i) {
    const std::int32_t source = sources_[i];
    if (source == kNone || !std::binary_search(tokens.begin(), tokens.end(), source)) continue;
    const auto position = static_cast<std::int64_t>(i);
    bool reads = false;
    for (std::int64_t s = 0; s < table_.shape().layers && !reads; ++s) {
      const void* const data = at(position, s).data;
      reads = lease_ != nullptr ? data == kUnread : data == table_.row(source, s).data;
    }
    if (reads) positions.push_back(position);
  }
  return positions;
}

void RowPlan::resolve() const {
  const std::vector<RecordFailure> failures = lease_->wait();
  std::vector<std::int32_t> lost;
  for (const RecordFailure& f : failures) lost.push_back(f.token);
  const auto positions = positions_of(lost);
  if (!positions.empty()) {
    const std::string more =
        failures.size() > 1 ? fmt::format("; {} more records of this batch", failures.size() - 1) : "";
    throw RecordError(failures[0].code, failures[0].message + more, lost, positions);
  }
  const std::int64_t row_bytes = table_.row_bytes();
  for (std::size_t i = 0; i < sources_.size(); ++i) {
    const char* record = nullptr;
    for (std::int64_t s = 0; s < table_.shape().layers; ++s) {
      RowPointer& row = at(static_cast<std::int64_t>(i), s);
      if (row.data != kUnread) continue;
      if (record == nullptr) record = static_cast<const char*>(lease_->data(sources_[i]));
      row.data = record + s * row_bytes;
    }
  }
  resolved_ = true;
}

RowPointers RowPlan::acquire(std::int64_t s) const {
  if (!resolved_) resolve();
  const auto n = static_cast<std::int64_t>(sources_.size());
  return {rows_.data() + s * n, n, table_.shape().width};
}

void RowPlan::verify() const {
  if (!table_.any_lost()) return;
  std::vector<std::int32_t> lost;
  for (const std::int32_t source : sources_) {
    if (source != kNone && table_.lost(source)) lost.push_back(source);
  }
  std::sort(lost.begin(), lost.end());
  lost.erase(std::unique(lost.begin(), lost.end()), lost.end());
  const auto positions = positions_of(lost);
  if (!positions.empty()) throw RecordError(ErrorCode::kIo, table_.lost_text(lost.front()), lost, positions);
}

}  // namespace stem
