// Figures of a study: means over seeds with intervals, differences by seed, and what they say of the paper's
// claims.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/study_plan.h"
#include "io/json.h"

namespace stem {

/// A mean with its 95 % interval by Student's t over `count` independent values; NaN ends below two values.
struct Interval {
  double mean = 0, low = 0, high = 0, deviation = 0;
  std::int64_t count = 0;

  bool excludes_zero() const { return low > 0 || high < 0; }
};
/// Values that are not finite are left out.
Interval interval_of(const std::vector<double>& values);
/// The factor of a 95 % interval, t with `freedom` degrees of freedom at 0.975.
double student_t(std::int64_t freedom);

/// What one finished run left.
struct RunOutcome {
  StudyRun run;
  double loss = 0;          ///< held-out, nats, at the end; NaN when diverged
  double tokens_per_s = 0;  ///< median over the steps
  std::int64_t spikes = 0;  ///< steps told as spikes
  bool diverged = false;    ///< a loss or gradient was not finite, or it ended above where it began
  std::vector<double> tokens, losses;            ///< training loss, thinned, by tokens
  std::vector<double> eval_tokens, eval_losses;  ///< held-out
};
/// Reads run directory `run_directory` (metrics.jsonl). Throws Error naming file and line.
RunOutcome read_outcome(const StudyRun& run, const std::filesystem::path& run_directory);

/// results.json (docs/formats/study.md) of the runs so far.
Json study_results(const std::vector<StudyVariant>& variants, std::int64_t vocab,
                   const std::vector<RunOutcome>& outcomes, std::int64_t planned_runs);

}  // namespace stem
