// Training runs side by side.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/json.h"

namespace stem {

/// One run's log. Each of `metrics` is an object with "step" and any of "loss", "eval_loss", "lr",
/// "tokens_per_s", "seconds", "norm_dense", "norm_table"; what is missing or null there is not drawn.
struct RunLog {
  std::string name;
  Json config;
  std::vector<Json> metrics;
};

/// A self-contained HTML page: final figures, loss by step and by seconds, gradient norms, and where the
/// runs' settings differ. Throws kFormat naming the field when one has the wrong type.
std::string run_report(std::span<const RunLog> runs);

}  // namespace stem
