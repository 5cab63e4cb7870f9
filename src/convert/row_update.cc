#include "convert/row_update.h"

#include <algorithm>

#include "convert/residual_stream.h"
#include "convert/text_rows.h"

namespace stem {

RowUpdate::RowUpdate(const Context& context, const Model& dense, const Model& student,
                     const std::vector<std::int32_t>& tokens, RowSource rows)
    : ctx_(context), dense_(dense), student_(student), rows_(std::move(rows)) {
  for (std::int64_t s = 0; s < student.config.stem_layer_count(); ++s)
    sums_.emplace_back(tokens, student.config.ffn);
}

void RowUpdate::add(const CalibrationText& piece) {
  typical_.clear();
  ResidualStream teacher_stream(ctx_, dense_, piece), student_stream(ctx_, student_, piece);
  const std::int64_t last = student_.config.stem_layers.back();
  Tensor rows(DType::f32, std::ssize(piece.distinct()), student_.config.ffn);
  for (std::int64_t l = 0; l <= last; ++l) {
    const std::int64_t s = student_.config.stem_index(l);
    if (s < 0) {
      teacher_stream.advance(ctx_, dense_, l);
      student_stream.advance(ctx_, student_, l);
      continue;
    }
    rows_(s, piece.distinct(), rows);
    const ResidualStream::Pass teacher_pass(ctx_, dense_, teacher_stream),
        student_pass(ctx_, student_, student_stream);
    for (std::int64_t b = 0; b < piece.batches(); ++b) {
      const TokenBatch batch = piece.batch(b);
      LayerSaved t = teacher_pass.at(b), u = student_pass.at(b);
      const Workspace::Scope scope(*ctx_.workspace);
      RowPlan plan(student_.table, batch);
      read_rows(plan, piece, batch, s, rows);
      forward_attention(ctx_, dense_, l, batch, t);
      forward_attention(ctx_, student_, l, batch, u);
      // Behind the last of them nothing is asked for.
      forward_ffn(ctx_, dense_, l, RowPlan(dense_.table, batch), t, l < last ? t.x_mid : Out{});
      forward_ffn(ctx_, student_, l, plan, u, l < last ? u.x_mid : Out{});
      sums_[static_cast<std::size_t>(s)].add(ctx_, batch.tokens, u.gate_up, t.hidden);
    }
  }
}

bool RowUpdate::solve(std::int64_t s, std::int32_t token, double occurrences, std::span<float> u) const {
  if (typical_.empty()) {
    for (const RowSums& sums : sums_) typical_.push_back(sums.typical_weight(1.0));
  }
  const RowSums& sums = sums_[static_cast<std::size_t>(s)];
  const auto at = std::lower_bound(sums.tokens().begin(), sums.tokens().end(), token);
  if (at == sums.tokens().end() || *at != token) return false;
  std::vector<float> weight = typical_[static_cast<std::size_t>(s)];
  for (float& w : weight) w *= static_cast<float>(occurrences);
  sums.solve(at - sums.tokens().begin(), u, weight);
  return true;
}

}  // namespace stem
