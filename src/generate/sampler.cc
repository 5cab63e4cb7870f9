#include "generate/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>

#include "core/error.h"
#include "core/rng.h"

namespace stem {
namespace {

// e^x for x ≤ 0 within 2e-7 of it, 0 below −87: 2^n · 2^f with |f| ≤ ½, the latter a polynomial. Unlike
// std::exp it is inlined, so that the compiler makes vector code of the loops over a vocabulary.
inline float exp_of_negative(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;
  const float t = bounded * 1.44269504f;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2²³: adding it leaves no fraction bits
  const float n = (t + kRound) - kRound, f = t - n;
  float p = 1.5403530e-4f;
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  const float scale = std::bit_cast<float>((static_cast<std::int32_t>(n) + 127) << 23);
  return x > -87.0f ? p * scale : 0.0f;
}

float largest(std::span<const float> values) {
  // Four at a time: the order does not matter to a maximum.
  float best[4] = {values[0], values[0], values[0], values[0]};
  std::size_t i = 0;
  for (; i + 4 <= values.size(); i += 4)
    for (std::size_t j = 0; j < 4; ++j) best[j] = values[i + j] > best[j] ? values[i + j] : best[j];
  for (; i < values.size(); ++i) best[0] = values[i] > best[0] ? values[i] : best[0];
  return std::max(std::max(best[0], best[1]), std::max(best[2], best[3]));
}

double sum_of(std::span<const float> values) {
  double part[4] = {0, 0, 0, 0};
  std::size_t i = 0;
  for (; i + 4 <= values.size(); i += 4)
    for (std::size_t j = 0; j < 4; ++j) part[j] += static_cast<double>(values[i + j]);
  for (; i < values.size(); ++i) part[0] += static_cast<double>(values[i]);
  return (part[0] + part[1]) + (part[2] + part[3]);
}

std::int32_t first_largest(std::span<const float> logits) {
  const float best = largest(logits);
  const auto at = std::find(logits.begin(), logits.end(), best);
  return at == logits.end() ? 0 : static_cast<std::int32_t>(at - logits.begin());  // not found: all NaN
}

void check_range(const char* name, double value, double low, double high) {
  if (!(value >= low && value <= high))
    fail(ErrorCode::kUsage, "{}: expected a number in [{}, {}], found {}", name, low, high, value);
}

}  // namespace

void check_sampling(const SamplingOptions& o, std::int64_t vocab) {
  check_range("temperature", o.temperature, 0.0, 100.0);
  if (o.top_k < 0) fail(ErrorCode::kUsage, "top_k: expected 0 (all) or more, found {}", o.top_k);
  if (!(o.top_p > 0.0 && o.top_p <= 1.0))
    fail(ErrorCode::kUsage, "top_p: expected a number in (0, 1], found {}", o.top_p);
  check_range("min_p", o.min_p, 0.0, 1.0);
  check_range("repetition_penalty", o.repetition_penalty, 0.01, 100.0);
  check_range("presence_penalty", o.presence_penalty, -100.0, 100.0);
  check_range("frequency_penalty", o.frequency_penalty, -100.0, 100.0);
  for (const auto& [token, bias] : o.logit_bias) {
    if (token < 0 || token >= vocab)
      fail(ErrorCode::kUsage, "logit_bias: expected token ids in [0, {}), found {}", vocab, token);
    check_range("logit_bias", static_cast<double>(bias), -1000.0, 1000.0);
  }
}

Sampler::Sampler(SamplingOptions options) : options_(std::move(options)) {}

void Sampler::see_prompt(std::span<const std::int32_t> tokens) {
  if (options_.repetition_penalty == 1.0) return;
  for (const std::int32_t token : tokens) seen_[token].prompt = true;
}

void Sampler::accept(std::int32_t token) {
  const bool counts = options_.repetition_penalty != 1.0 || options_.presence_penalty != 0.0 ||
                      options_.frequency_penalty != 0.0;
  if (counts) ++seen_[token].made;
}

bool Sampler::stops(std::int32_t token) const {
  return std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token) !=
         options_.stop_tokens.end();
}

bool Sampler::adjusts() const {
  return !seen_.empty() || !options_.logit_bias.empty();
}

bool Sampler::filters() const {
  return options_.top_k > 0 || options_.top_p < 1.0 || options_.min_p > 0.0;
}

void Sampler::adjust(TokenMask mask) {
  for (const auto& [token, seen] : seen_) {
    float& logit = adjusted_[static_cast<std::size_t>(token)];
    const auto repetition = static_cast<float>(options_.repetition_penalty);
    logit = logit >= 0.0f ? logit / repetition : logit * repetition;
    if (seen.made > 0) {
      logit -= static_cast<float>(options_.presence_penalty +
                                  options_.frequency_penalty * static_cast<double>(seen.made));
    }
  }
  for (const auto& [token, bias] : options_.logit_bias) adjusted_[static_cast<std::size_t>(token)] += bias;
  if (mask.empty()) return;
  for (std::size_t t = 0; t < adjusted_.size(); ++t) {
    if (((mask[t / 64] >> (t % 64)) & 1u) == 0) adjusted_[t] = -std::numeric_limits<float>::infinity();
  }
}

std::int32_t Sampler::choose(std::span<const float> logits, std::uint64_t position, TokenMask mask) {
  if (adjusts() || !mask.empty()) {
    adjusted_.assign(logits.begin(), logits.end());
    adjust(mask);
    logits = adjusted_;
  }
  return options_.temperature <= 0.0 ? first_largest(logits) : draw(logits, position);
}

float Sampler::weight(std::int32_t token) const {
  return weights_[static_cast<std::size_t>(token)];
}

// The likelier first, the lower id among equals.
bool Sampler::ranks_before(std::int32_t a, std::int32_t b) const {
  return weight(a) != weight(b) ? weight(a) > weight(b) : a < b;
}

// Leaves the tokens that may be drawn in order_.
void Sampler::keep_candidates(double total) {
  order_.clear();
  const auto floor = static_cast<float>(options_.min_p);
  for (std::size_t t = 0; t < weights_.size(); ++t) {
    if (weights_[t] > 0.0f && weights_[t] >= floor) order_.push_back(static_cast<std::int32_t>(t));
  }
  const auto before = [&](std::int32_t a, std::int32_t b) { return ranks_before(a, b); };
  if (options_.top_k > 0 && static_cast<std::uint64_t>(options_.top_k) < weights_.size()) {
    // The total of the top_k includes those that min_p drops: they are the last of the order.
    const auto k = static_cast<std::size_t>(options_.top_k);
    if (k < order_.size()) {
      std::nth_element(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(k), order_.end(), before);
      order_.resize(k);
    }
    if (options_.top_p < 1.0) {
      std::vector<float> top(weights_);
      std::nth_element(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(k), top.end(),
                       std::greater<>());
      std::sort(top.begin(), top.begin() + static_cast<std::ptrdiff_t>(k), std::greater<>());
      total = sum_of(std::span(top).first(k));
    }
  }
  if (options_.top_p < 1.0) cut_after(options_.top_p * total);
}

// Weights are in (0, 1]: their upper 16 bits sort them into classes. Only within the class where `wanted` is
// reached does their order matter.
void Sampler::cut_after(double wanted) {
  constexpr int kShift = 16;
  const auto class_of = [&](std::int32_t t) { return std::bit_cast<std::uint32_t>(weight(t)) >> kShift; };
  totals_.assign((std::bit_cast<std::uint32_t>(1.0f) >> kShift) + 1, 0.0);
  for (const std::int32_t t : order_) totals_[class_of(t)] += static_cast<double>(weight(t));
  std::size_t edge = totals_.size() - 1;
  double sum = 0.0;
  for (; edge > 0 && sum + totals_[edge] < wanted; --edge) sum += totals_[edge];
  std::vector<std::int32_t> ranked;
  std::copy_if(order_.begin(), order_.end(), std::back_inserter(ranked),
               [&](std::int32_t t) { return class_of(t) == edge; });
  std::sort(ranked.begin(), ranked.end(), [&](std::int32_t a, std::int32_t b) { return ranks_before(a, b); });
  std::size_t taken = 0;
  while (taken < ranked.size() && sum < wanted) sum += static_cast<double>(weight(ranked[taken++]));
  if (taken == 0) return;  // rounding: all are wanted
  const std::int32_t last = ranked[taken - 1];
  std::erase_if(order_, [&](std::int32_t t) { return ranks_before(last, t); });
}

// The candidates stand in ascending order of id, whatever was cut: where nothing is cut nothing changes.
std::int32_t Sampler::draw(std::span<const float> logits, std::uint64_t position) {
  const float best = largest(logits);
  const auto scale = 1.0 / options_.temperature;
  weights_.resize(logits.size());
  for (std::size_t t = 0; t < logits.size(); ++t) {
    const double difference = (static_cast<double>(logits[t]) - static_cast<double>(best)) * scale;
    weights_[t] = exp_of_negative(static_cast<float>(difference > -1e4 ? difference : -1e4));
  }
  double total = sum_of(weights_);
  const Rng rng(options_.seed, options_.stream);
  const double u = static_cast<double>(rng.at(position) >> 11) * 0x1.0p-53;
  if (!filters()) {
    double left = u * total;
    for (std::size_t t = 0; t < weights_.size(); ++t) {
      left -= static_cast<double>(weights_[t]);
      if (left < 0.0) return static_cast<std::int32_t>(t);
    }
    return first_largest(logits);  // rounding left a crumb
  }
  keep_candidates(total);
  if (!std::is_sorted(order_.begin(), order_.end())) std::sort(order_.begin(), order_.end());
  total = 0.0;
  for (const std::int32_t t : order_) total += static_cast<double>(weight(t));
  double left = u * total;
  for (const std::int32_t t : order_) {
    left -= static_cast<double>(weight(t));
    if (left < 0.0) return t;
  }
  return first_largest(logits);
}

std::int32_t sample(std::span<const float> logits, const SamplingOptions& options, std::uint64_t position) {
  return Sampler(options).choose(logits, position);
}

double log_sum_exp(std::span<const float> logits) {
  const float best = largest(logits);
  double part[4] = {0, 0, 0, 0};
  std::size_t i = 0;
  for (; i + 4 <= logits.size(); i += 4)
    for (std::size_t j = 0; j < 4; ++j) part[j] += static_cast<double>(exp_of_negative(logits[i + j] - best));
  for (; i < logits.size(); ++i) part[0] += static_cast<double>(exp_of_negative(logits[i] - best));
  return static_cast<double>(best) + std::log((part[0] + part[1]) + (part[2] + part[3]));
}

std::vector<TokenScore> top_scores(std::span<const float> logits, double log_total, std::int64_t k) {
  // Few are wanted: a sorted list of the best so far, which most tokens do not enter.
  const auto wanted = static_cast<std::size_t>(std::clamp<std::int64_t>(k, 0, std::ssize(logits)));
  std::vector<TokenScore> top;
  if (wanted == 0) return top;
  top.reserve(wanted + 1);
  float least = -std::numeric_limits<float>::infinity();
  const auto value = [&](const TokenScore& s) { return logits[static_cast<std::size_t>(s.token)]; };
  for (std::size_t t = 0; t < logits.size(); ++t) {
    if (top.size() == wanted && !(logits[t] > least)) continue;
    const auto at = std::upper_bound(top.begin(), top.end(), logits[t],
                                     [&](float logit, const TokenScore& s) { return logit > value(s); });
    top.insert(at, {static_cast<std::int32_t>(t), static_cast<double>(logits[t]) - log_total});
    if (top.size() > wanted) top.pop_back();
    least = value(top.back());
  }
  return top;
}

std::vector<Candidate> top_candidates(std::span<const float> logits, std::int64_t k) {
  std::vector<Candidate> top;
  for (const TokenScore& s : top_scores(logits, log_sum_exp(logits), k))
    top.push_back({s.token, std::exp(s.log_probability)});
  return top;
}

}  // namespace stem
