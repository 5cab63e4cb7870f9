// The next token, drawn from logits: the one sampler of the command line, of sessions and of the server.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace stem {

/// How the next token is chosen. In this order: penalties, biases, the mask of a constraint, temperature,
/// then the candidates in descending order are cut after the first top_k of them, after the first whose
/// probabilities (among those top_k) reach top_p, and before the first below min_p of the likeliest.
struct SamplingOptions {
  double temperature = 0.0;         ///< ≥ 0; 0: the likeliest token, the lowest id on ties
  std::int64_t top_k = 0;           ///< ≥ 0; 0: all
  double top_p = 1.0;               ///< (0, 1]; 1: all
  double min_p = 0.0;               ///< [0, 1]; 0: all
  double repetition_penalty = 1.0;  ///< > 0: a token seen in prompt or answer: logit ≥ 0 ? l / r : l · r
  double presence_penalty = 0.0;    ///< subtracted once from the logit of a token of the answer
  double frequency_penalty = 0.0;   ///< subtracted for each time that the answer has it
  std::vector<std::pair<std::int32_t, float>> logit_bias;  ///< added to logits
  std::uint64_t seed = 1;
  std::uint64_t stream = 0;               ///< another one for each of several answers to a prompt
  std::vector<std::int32_t> stop_tokens;  ///< end the text, not part of it
};

/// Throws kUsage, naming the option, for a value out of range or a token outside the vocabulary.
void check_sampling(const SamplingOptions& options, std::int64_t vocab);

/// A token and the natural logarithm of its probability.
struct TokenScore {
  std::int32_t token = 0;
  double log_probability = 0.0;
};

/// Which token ids are allowed: bit t % 64 of word t / 64. Empty: all.
using TokenMask = std::span<const std::uint64_t>;

/// Chooses the tokens of one sequence. The draw at a position is a pure function of logits, options, tokens
/// seen and position: neither what is sampled beside it nor what was drawn before matters.
class Sampler {
 public:
  /// The options must be checked.
  explicit Sampler(SamplingOptions options);

  /// Notes tokens of the prompt (penalties).
  void see_prompt(std::span<const std::int32_t> tokens);
  /// Notes a token of the answer.
  void accept(std::int32_t token);

  /// The token at `position` of its sequence (0-based). At least one token of the mask must be allowed.
  std::int32_t choose(std::span<const float> logits, std::uint64_t position, TokenMask mask = {});

  bool stops(std::int32_t token) const;
  const SamplingOptions& options() const { return options_; }

 private:
  struct Seen {
    bool prompt = false;
    std::int64_t made = 0;
  };
  bool adjusts() const;
  bool filters() const;
  void adjust(TokenMask mask);
  std::int32_t draw(std::span<const float> logits, std::uint64_t position);
  float weight(std::int32_t token) const;
  bool ranks_before(std::int32_t a, std::int32_t b) const;
  void keep_candidates(double total);
  void cut_after(double wanted);

  SamplingOptions options_;
  std::unordered_map<std::int32_t, Seen> seen_;
  std::vector<float> adjusted_, weights_;
  std::vector<std::int32_t> order_;
  std::vector<double> totals_;  // of classes of weights
};

/// One draw without a history: penalties have nothing to count.
std::int32_t sample(std::span<const float> logits, const SamplingOptions& options, std::uint64_t position);

/// log Σ exp(logits).
double log_sum_exp(std::span<const float> logits);

/// The k likeliest tokens in descending order, the lower id first on ties; `log_total` is log_sum_exp.
std::vector<TokenScore> top_scores(std::span<const float> logits, double log_total, std::int64_t k);

/// Probabilities of the k likeliest next tokens, descending.
struct Candidate {
  std::int32_t token = 0;
  double probability = 0.0;
};
std::vector<Candidate> top_candidates(std::span<const float> logits, std::int64_t k);

}  // namespace stem
