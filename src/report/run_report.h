// Training runs side by side.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/json.h"

namespace stem {

/// One run's log. Each of `metrics` is a line of metrics.jsonl: an object with "step" and any of "tokens" and
/// "seconds" (both of that step alone), "loss", "eval_loss", "lr", "table_lr", "norm_dense", "norm_table",
/// "tokens_per_s", and "spike", which is there, and not false, where the step was told as a spike. `model`
/// holds what follows from the shape, any of "dense_parameters", "table_parameters", "active_parameters",
/// "flops_per_token" (forward, without lookup and attention), "memory_bytes" (planned). What is missing or
/// null is not shown.
struct RunLog {
  std::string name;
  Json config;
  std::vector<Json> metrics;
  Json model;
};

/// A self-contained HTML page: final figures and their differences from the first run, loss by tokens, by
/// training FLOPs and by time, schedule and norms, spikes, the models, and where the runs' settings differ.
/// Throws kFormat naming the field when one has the wrong type.
std::string run_report(std::span<const RunLog> runs);

}  // namespace stem
