#include "convert/row_update.h"

#include <algorithm>

#include "convert/residual_stream.h"
#include "convert/text_rows.h"

namespace stem {

RowUpdate::RowUpdate(const Context& context, const Model& dense, const Model& student,
                     const std::vector<std::int32_t>& tokens, RowSource rows)
    : ctx_(context), dense_(dense), student_(student), rows_(std::move(rows)), counts_(tokens.size(), 0) {
  for (std::int64_t s = 0; s < student.config.stem_layer_count(); ++s)
    sums_.emplace_back(tokens, student.config.ffn);
}

double RowUpdate::bytes(std::int64_t stem_layers, std::int64_t distinct, std::int64_t ffn) {
  return 8.0 * static_cast<double>(stem_layers) * static_cast<double>(distinct) * static_cast<double>(ffn);
}

void RowUpdate::add(const CalibrationText& piece) {
  const std::span<const std::int32_t> tokens = sums_.front().tokens();
  for (std::size_t i = 0; i < piece.distinct().size(); ++i) {
    const auto at = std::lower_bound(tokens.begin(), tokens.end(), piece.distinct()[i]);
    counts_[static_cast<std::size_t>(at - tokens.begin())] += piece.counts()[i];
  }
  start_ = piece.tokens().front();
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

RowUpdate::Layer::Layer(const RowUpdate& update, std::int64_t s)
    : update_(update),
      sums_(update.sums_[static_cast<std::size_t>(s)]),
      ordinary_(sums_.typical_weight(1.0)),
      weight_(ordinary_.size()) {}

bool RowUpdate::Layer::solve(std::int32_t token, std::int64_t seen, double prior, std::span<float> u) {
  const auto at = std::lower_bound(sums_.tokens().begin(), sums_.tokens().end(), token);
  if (at == sums_.tokens().end() || *at != token || token == update_.start_) return false;
  const std::int64_t r = at - sums_.tokens().begin();
  const std::span<const float> squares = sums_.squares(r);
  const auto of_own = static_cast<float>(static_cast<double>(seen) /
                                         static_cast<double>(update_.counts_[static_cast<std::size_t>(r)]));
  for (std::size_t f = 0; f < weight_.size(); ++f)
    weight_[f] = static_cast<float>(prior) * ordinary_[f] + of_own * squares[f];
  sums_.solve(r, u, weight_);
  return true;
}

}  // namespace stem
