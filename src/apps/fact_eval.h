// Fact suites against a model: plain accuracy, and the swap score of the demonstration.
#pragma once

#include <string>
#include <vector>

#include "apps/patched_model.h"
#include "data/fact_suite.h"
#include "edit/surgery.h"

namespace stem {

/// Accuracy of one template: greedy exact match of the whole answer.
struct TemplateAccuracy {
  std::string id, relation, text;
  bool seen = true;
  std::int64_t cases = 0, correct = 0;
};

/// Asks every entity that has the relation. Patches in force count.
std::vector<TemplateAccuracy> fact_accuracy(const Context& context, const PatchedModel& opened,
                                            const FactSuite& suite);

/// One template over all ordered pairs of single-token countries: the slot's row replaced by the donor's
/// record.
struct SwapScore {
  std::string id, relation, text;
  bool seen = true, is_long = false;
  std::int64_t entities = 0, base_correct = 0;
  std::int64_t pairs = 0;  ///< slot and donor both known to the base, with different answers
  std::int64_t donor = 0;  ///< … the answer became the donor's: success
  std::int64_t own = 0;    ///< … it is still the slot's own
};

/// Averaged and other rules with donors of several tokens, over all single-token slots.
struct RuleScore {
  std::string rule;
  std::int64_t cases = 0, success = 0;
  std::vector<std::pair<std::string, double>> by_donor;
};

struct SwapScores {
  std::int64_t countries = 0;
  std::vector<SwapScore> templates;
  std::vector<RuleScore> rules;  ///< first template
};

/// `max_templates` 0: all. Scores are greedy exact matches of the whole answer.
SwapScores score_swaps(const Context& context, const LoadedModel& loaded, const FactSuite& suite,
                       std::int64_t max_templates, bool quiet);

/// As reports and --json show them: shares in [0, 1].
Json to_json(const SwapScores& scores);

FactSuite load_facts(const std::filesystem::path& path);

}  // namespace stem
