#include "inspect/divergence.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace stem {
namespace {

// One sequence through a model; logits in pieces, so that a large vocabulary needs little memory.
class Pass {
 public:
  Pass(const Context& context, const Model& model, std::span<const std::int32_t> tokens)
      : context_(context), model_(model), scope_(*context.workspace) {
    std::vector<std::int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    const auto n = static_cast<std::int64_t>(tokens.size());
    const Segment segment{0, n, 0, n};
    const TokenBatch batch{tokens, positions, {&segment, 1}};
    const RowPlan rows(model.table, batch);
    activations_ = allocate_activations(context_, model, n);
    forward_hidden(context_, model, batch, rows, activations_);
  }
  void logits(std::int64_t first, std::int64_t count, std::vector<float>& to) const {
    std::vector<std::int64_t> at(static_cast<std::size_t>(count));
    std::iota(at.begin(), at.end(), first);
    to.resize(static_cast<std::size_t>(count * model_.config.vocab));
    forward_logits(context_, model_, activations_, at, matrix(to.data(), count, model_.config.vocab));
  }

 private:
  Context context_;
  const Model& model_;
  Workspace::Scope scope_;
  Activations activations_;
};

struct Position {
  double loss, base_loss, kl;
  bool same_top;
};

// log Σ exp
double normaliser(std::span<const float> logits) {
  const double top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float v : logits) sum += std::exp(static_cast<double>(v) - top);
  return top + std::log(sum);
}

Position compare(std::span<const float> base, std::span<const float> model, std::int32_t next) {
  const double base_z = normaliser(base), z = normaliser(model);
  double kl = 0;
  for (std::size_t i = 0; i < base.size(); ++i) {
    const double log_p = static_cast<double>(base[i]) - base_z, log_q = static_cast<double>(model[i]) - z;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  const auto top = [](std::span<const float> v) { return std::max_element(v.begin(), v.end()) - v.begin(); };
  const auto t = static_cast<std::size_t>(next);
  return {z - static_cast<double>(model[t]), base_z - static_cast<double>(base[t]), kl,
          top(base) == top(model)};
}

}  // namespace

double Divergence::perplexity() const {
  return std::exp(loss);
}
double Divergence::base_perplexity() const {
  return std::exp(base_loss);
}

Divergence compare_predictions(const Context& context, const Model& base, const Model& model,
                               std::span<const std::int32_t> tokens, std::int64_t sequence) {
  if (base.config.vocab != model.config.vocab) {
    fail(ErrorCode::kMismatch, "two models to be compared: vocab_size: expected {}, found {}",
         base.config.vocab, model.config.vocab);
  }
  Context inference = context;
  inference.inference = true;
  const auto vocab = static_cast<std::size_t>(base.config.vocab);
  constexpr std::int64_t kPiece = 32;
  Divergence d;
  double squares = 0;
  std::vector<float> base_logits, logits;
  for (std::size_t first = 0; first + 1 < tokens.size(); first += static_cast<std::size_t>(sequence)) {
    const auto piece =
        tokens.subspan(first, std::min(static_cast<std::size_t>(sequence), tokens.size() - first));
    const auto scored = static_cast<std::int64_t>(piece.size()) - 1;
    const Workspace::Scope scope(*inference.workspace);
    const Pass of_base(inference, base, piece), of_model(inference, model, piece);
    for (std::int64_t at = 0; at < scored; at += kPiece) {
      const std::int64_t count = std::min(kPiece, scored - at);
      of_base.logits(at, count, base_logits);
      of_model.logits(at, count, logits);
      std::vector<Position> results(static_cast<std::size_t>(count));
#pragma omp parallel for schedule(static)
      for (std::int64_t i = 0; i < count; ++i) {
        const std::size_t begin = static_cast<std::size_t>(i) * vocab;
        results[static_cast<std::size_t>(i)] =
            compare({base_logits.data() + begin, vocab}, {logits.data() + begin, vocab},
                    piece[static_cast<std::size_t>(at + i + 1)]);
      }
      for (const Position& p : results) {
        d.loss += p.loss, d.base_loss += p.base_loss, d.kl += p.kl, squares += p.kl * p.kl;
        d.kl_top = std::max(d.kl_top, p.kl);
        d.same_top += p.same_top ? 1 : 0;
      }
      d.positions += count;
    }
  }
  if (d.positions == 0) return d;
  const auto n = static_cast<double>(d.positions);
  d.loss /= n, d.base_loss /= n, d.kl /= n, d.same_top /= n;
  d.kl_deviation = std::sqrt(std::max(0.0, squares / n - d.kl * d.kl) / n);
  return d;
}

}  // namespace stem
