// Mode `exact`: records that make up for missed updates, or show what they would be without being changed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "train/optimizer.h"

namespace stem {
namespace {

constexpr std::int64_t kBlockRows = 64;

void copy_row(const Out& to, std::int64_t to_row, const In& from, std::int64_t from_row) {
  std::memcpy(to.slice_rows(to_row, 1).data, from.slice_rows(from_row, 1).data,
              static_cast<std::size_t>(from.cols * size_of(from.dtype)));
}

// Works on copies of a few records at a time, moments included.
class Replay {
 public:
  Replay(const Context& ctx, In weights, const RowState& state)
      : ctx_(ctx), weights_(weights), state_(state) {
    for (Tensor* t : {&w_, &m_, &v_}) *t = Tensor(weights.dtype, kBlockRows, weights.cols);
    std::iota(places_, places_ + kBlockRows, 0);
  }
  // Rows `tokens`, at most kBlockRows, as they would be now.
  In run(std::span<const std::int32_t> tokens) {
    for (std::size_t r = 0; r < tokens.size(); ++r) {
      const std::int64_t token = tokens[r];
      copy_row(w_.view, static_cast<std::int64_t>(r), weights_, token);
      copy_row(m_.view, static_cast<std::int64_t>(r), state_.m.view, token);
      copy_row(v_.view, static_cast<std::int64_t>(r), state_.v.view, token);
      from_[r] = state_.last_step[static_cast<std::size_t>(token)];
    }
    ctx_.kernels->optimizer.adamw_catch_up(w_, m_, v_, {places_, tokens.size()}, {from_, tokens.size()},
                                           state_.history.view());
    return In(w_.view).slice_rows(0, static_cast<std::int64_t>(tokens.size()));
  }

 private:
  const Context& ctx_;
  In weights_;
  const RowState& state_;
  Tensor w_, m_, v_;
  std::int32_t places_[kBlockRows];
  std::int64_t from_[kBlockRows];
};

}  // namespace

void UpdateHistory::append(const GroupOptions& group) {
  // As the adamw kernel computes them, so that a replayed update is the update.
  const AdamW a;
  const auto t = static_cast<double>(lr_.size() + 1);
  const double lr = static_cast<double>(group.lr), keep = 1.0 - lr * static_cast<double>(group.decay);
  require(keep > 0, "learning rate times weight decay");
  lr_.push_back(group.lr);
  rate_.push_back(lr / (1.0 - std::pow(static_cast<double>(a.beta1), t)));
  inv_c2_.push_back(1.0 / (1.0 - std::pow(static_cast<double>(a.beta2), t)));
  keep_.push_back(keep);
  log_keep_.push_back((log_keep_.empty() ? 0.0 : log_keep_.back()) + std::log(keep));
  top_rate_ = std::max(top_rate_, rate_.back());
}

AdamWHistory UpdateHistory::view() const {
  AdamWHistory h;
  h.rate = rate_;
  h.inv_c2 = inv_c2_;
  h.keep = keep_;
  h.log_keep = log_keep_;
  h.top_rate = top_rate_;
  return h;
}

void UpdateHistory::restore(std::span<const float> lr, float decay) {
  *this = {};
  for (const float rate : lr) append({rate, decay, 0.0f});
}

void Optimizer::catch_up(const Context& ctx, Model& model, std::span<const std::int32_t> tokens) {
  if (mode_ == TableOptimizer::lazy) return;
  std::vector<std::int64_t> from(tokens.size());
  const auto rows = [&](RowState& state, Out weights) {
    if (!state.present()) return;
    for (std::size_t r = 0; r < tokens.size(); ++r) {
      auto& last = state.last_step[static_cast<std::size_t>(tokens[r])];
      from[r] = last;
      last = updates_;
    }
    ctx.kernels->optimizer.adamw_catch_up(weights, state.m, state.v, tokens, from, state.history.view());
  };
  if (table.present()) rows(table, model.table.writable_records());
  rows(embedding, model.embedding);
}

Current::Current(const Context& ctx, Model& model, const Optimizer& optimizer,
                 std::span<const std::int32_t> tokens) {
  if (optimizer.mode() == TableOptimizer::lazy) return;
  tokens_.assign(tokens.begin(), tokens.end());
  const auto rows = [&](const RowState& state, Out weights) {
    if (!state.present()) return;
    saved_.push_back(
        {weights, Tensor(weights.dtype, static_cast<std::int64_t>(tokens_.size()), weights.cols)});
    const Out raw = saved_.back().raw.view;
    Replay replay(ctx, weights, state);
    for (std::size_t first = 0; first < tokens_.size(); first += kBlockRows) {
      const std::size_t count = std::min<std::size_t>(kBlockRows, tokens_.size() - first);
      const In now = replay.run(std::span(tokens_).subspan(first, count));
      for (std::size_t r = 0; r < count; ++r) {
        copy_row(raw, static_cast<std::int64_t>(first + r), weights, tokens_[first + r]);
        copy_row(weights, tokens_[first + r], now, static_cast<std::int64_t>(r));
      }
    }
  };
  if (optimizer.table.present()) rows(optimizer.table, model.table.writable_records());
  rows(optimizer.embedding, model.embedding);
}

Current::~Current() {
  for (const Saved& s : saved_) {
    for (std::size_t r = 0; r < tokens_.size(); ++r)
      copy_row(s.weights, tokens_[r], s.raw.view, static_cast<std::int64_t>(r));
  }
}

void visit_current(const Context& ctx, In weights, const RowState& state,
                   const std::function<void(std::int64_t first, In rows)>& visit) {
  const bool lags = state.present() && state.history.updates() > 0;
  Replay replay(ctx, lags ? weights : In{nullptr, weights.dtype, 0, 0, 0}, state);
  std::vector<std::int32_t> tokens;
  for (std::int64_t first = 0; first < weights.rows; first += kBlockRows) {
    const std::int64_t count = std::min(kBlockRows, weights.rows - first);
    tokens.resize(static_cast<std::size_t>(count));
    std::iota(tokens.begin(), tokens.end(), static_cast<std::int32_t>(first));
    visit(first, lags ? replay.run(tokens) : weights.slice_rows(first, count));
  }
}

}  // namespace stem
