// What an engine has done so far.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "tables/record_store.h"

namespace stem {

/// How often a time fell below each bound, as Prometheus counts.
class TimeHistogram {
 public:
  static constexpr std::array<double, 16> kBounds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                                  0.15,  0.25,   0.5,   1.0,  2.5,   5.0,  10.0,  60.0};

  void add(double seconds) {
    std::size_t bucket = 0;
    while (bucket < kBounds.size() && seconds > kBounds[bucket]) ++bucket;
    ++counts_[bucket];
    ++count_;
    sum_ += seconds;
  }
  /// Of times in (bound before, bound]; the last beyond all bounds.
  std::span<const std::uint64_t> counts() const { return counts_; }
  std::uint64_t count() const { return count_; }
  double sum() const { return sum_; }

 private:
  std::array<std::uint64_t, kBounds.size() + 1> counts_{};
  std::uint64_t count_ = 0;
  double sum_ = 0.0;
};

/// Counters from the engine's start, and gauges of now. Answers are counted, a request of n choices n times.
struct EngineStats {
  std::uint64_t stopped = 0, length = 0, cancelled = 0, late = 0, failed = 0;  ///< answers, by their end
  std::uint64_t prompt_tokens = 0;                                             ///< of admitted answers
  std::uint64_t cached_tokens = 0;    ///< of these, not computed but found
  std::uint64_t computed_tokens = 0;  ///< tokens that went through the model, wrong guesses among them
  std::uint64_t made_tokens = 0;      ///< of answers
  std::uint64_t guessed_tokens = 0, right_guesses = 0;
  std::uint64_t steps = 0;
  double step_seconds = 0, sample_seconds = 0;  ///< in steps; of these, in scoring and choosing tokens
  TimeHistogram queued;                         ///< from submission to admission
  TimeHistogram first_token;                    ///< from submission
  TimeHistogram token;                          ///< between tokens of an answer
  TimeHistogram whole;                          ///< from submission to the end

  std::optional<TableStats> table;  ///< of a table that is read record by record

  std::int64_t running = 0, waiting = 0;       ///< answers
  std::int64_t kv_rows = 0, kv_busy_rows = 0;  ///< rows of the cache; of these, of running answers
};

}  // namespace stem
