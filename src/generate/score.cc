#include "generate/score.h"

#include <algorithm>
#include <cmath>

namespace stem {
namespace {

// Everything of one batch: sequences prompt + wanted[:-1], and the rows whose next token is judged.
struct PackedCases {
  std::vector<std::int32_t> tokens, positions;
  std::vector<Segment> segments;
  std::vector<std::int64_t> judged;
};

PackedCases pack(std::span<const ScoreCase> cases) {
  PackedCases p;
  for (const ScoreCase& c : cases) {
    const auto row = static_cast<std::int64_t>(p.tokens.size());
    p.tokens.insert(p.tokens.end(), c.prompt.begin(), c.prompt.end());
    p.tokens.insert(p.tokens.end(), c.wanted.begin(), c.wanted.end() - 1);
    const std::int64_t length = static_cast<std::int64_t>(p.tokens.size()) - row;
    for (std::int64_t i = 0; i < length; ++i) p.positions.push_back(static_cast<std::int32_t>(i));
    p.segments.push_back({row, length, row, length});
    for (std::size_t i = 0; i < c.wanted.size(); ++i) {
      p.judged.push_back(row + static_cast<std::int64_t>(c.prompt.size() - 1 + i));
    }
  }
  return p;
}

void score_batch(const Context& context, const Model& model, std::span<const ScoreCase> cases,
                 const Overlay* overlay, bool with_log_probability, std::vector<ScoreResult>& results) {
  const PackedCases p = pack(cases);
  const TokenBatch batch{p.tokens, p.positions, p.segments, {}};
  RowPlan rows(model.table, batch, overlay);
  const TableShape shape = model.table.shape();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    for (const RecordEdit& edit : cases[i].edits) {
      for (std::int64_t s = 0; s < shape.layers; ++s) {
        rows.redirect(p.segments[i].q_row + edit.position, s, edit.record + s * shape.width);
      }
    }
  }
  Workspace::Scope scope(*context.workspace);
  Activations a = allocate_activations(context, model, batch.size());
  forward_hidden(context, model, batch, rows, a);
  const Out logits = context.workspace->matrix(
      model.precision.wide, static_cast<std::int64_t>(p.judged.size()), model.config.vocab);
  forward_logits(context, model, a, p.judged, logits);

  std::int64_t row = 0;
  for (const ScoreCase& c : cases) {
    ScoreResult result;
    result.exact = true;
    for (std::size_t i = 0; i < c.wanted.size(); ++i, ++row) {
      const float* l = logits.row<float>(row);
      const float* best = std::max_element(l, l + model.config.vocab);
      const auto top = static_cast<std::int32_t>(best - l);
      if (i == 0) result.first = top;
      result.exact = result.exact && top == c.wanted[i];
      if (!with_log_probability) continue;  // V exponentials a row cost more than the model
      double total = 0.0;
      for (std::int64_t v = 0; v < model.config.vocab; ++v)
        total += std::exp(static_cast<double>(l[v] - *best));
      result.log_probability += static_cast<double>(l[c.wanted[i]] - *best) - std::log(total);
    }
    results.push_back(result);
  }
}

}  // namespace

std::vector<ScoreResult> score_cases(const Context& context, const Model& model,
                                     std::span<const ScoreCase> cases, const Overlay* overlay,
                                     bool with_log_probability, std::int64_t tokens_per_batch) {
  std::vector<ScoreResult> results;
  results.reserve(cases.size());
  std::size_t first = 0;
  while (first < cases.size()) {
    std::size_t end = first;
    std::int64_t tokens = 0;
    for (; end < cases.size(); ++end) {
      const ScoreCase& c = cases[end];
      require(!c.prompt.empty() && !c.wanted.empty(), "a case needs a prompt and an answer");
      const auto length = static_cast<std::int64_t>(c.prompt.size() + c.wanted.size() - 1);
      if (length > model.config.max_positions) {
        fail(ErrorCode::kUsage,
             "the context holds {} tokens (max_position_embeddings), a prompt with its answer needs {}",
             model.config.max_positions, length);
      }
      if (end > first && tokens + length > tokens_per_batch) break;
      tokens += length;
    }
    score_batch(context, model, cases.subspan(first, end - first), overlay, with_log_probability, results);
    first = end;
  }
  return results;
}

}  // namespace stem
