// Benchmark suites against a model: the figures, and every item with its scores.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "apps/patched_model.h"
#include "data/suite.h"
#include "generate/continuation.h"

namespace stem {

/// "NAME=FILE" of an option --suite, each name once. Throws kUsage.
std::vector<std::pair<std::string, std::string>> named_suite_files(const std::vector<std::string>& texts);

struct SuiteMetric {
  std::string name;
  Estimate estimate;
};

/// The figures of one suite, or of one of MMLU's subjects.
///   choice, hellaswag  acc: the largest Σ log p; acc_norm: divided by the choice's characters (lm-eval's);
///                      acc_bytes: divided by its UTF-8 bytes
///   mmlu               acc: over all items (micro); acc_macro: mean over subjects
///   last-word          acc: greedy decoding gives every token; perplexity: exp(mean −Σ log p)
///   answer             strict: the figure behind "#### " is the answer; flexible: the last figure is
struct SuiteFigures {
  std::string name;
  std::int64_t items = 0;
  std::vector<SuiteMetric> metrics;
};

struct SuiteResult {
  SuiteFigures all;
  std::vector<SuiteFigures> subjects;  ///< MMLU only
  SuiteForm form = SuiteForm::choice;
  std::string path, query_template;
  std::int64_t shots = 0;
  std::int64_t cut_items = 0;       ///< items whose prompt lost tokens at its front to fit the context
  std::int64_t max_new_tokens = 0;  ///< answers only
  double seconds = 0.0;
};

struct SuiteEvalOptions {
  std::int64_t max_new_tokens = 256;                   ///< of an answer; at most half the model's context
  std::function<void(const Json&)> on_item;            ///< sees each item with its scores, if given
  std::function<void(std::int64_t done)> on_progress;  ///< items done, now and then, if given
};

/// Scores every item with the batch-invariant kernels: figures do not depend on how items are batched.
/// Patches in force count. Throws kUsage naming the item when a choice alone is longer than the context.
SuiteResult evaluate_suite(const Context& inference, const PatchedModel& opened, const std::string& name,
                           const Suite& suite, const SuiteEvalOptions& options);

Json to_json(const SuiteResult& result);
/// Columns suite, items, metric, value, standard error; a line a metric, subjects indented.
std::string table_text(std::span<const SuiteResult> results);

}  // namespace stem
