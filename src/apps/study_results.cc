#include "apps/study_results.h"

#include <algorithm>
#include <cmath>

#include "apps/run_log.h"
#include "core/error.h"

namespace stem {
namespace {

constexpr std::size_t kCurvePoints = 100;

double member(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : NAN;
}

double mean_of(const std::vector<double>& values, std::size_t first, std::size_t last) {
  double sum = 0, count = 0;
  for (std::size_t i = first; i < last; ++i) {
    if (std::isfinite(values[i])) sum += values[i], ++count;
  }
  return count > 0 ? sum / count : NAN;
}

Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json interval_json(const Interval& i) {
  return {{"mean", number_or_null(i.mean)},
          {"low", number_or_null(i.low)},
          {"high", number_or_null(i.high)},
          {"deviation", number_or_null(i.deviation)},
          {"count", i.count}};
}

/// The outcomes of one variant in the study's first part.
std::vector<const RunOutcome*> main_runs(const std::vector<RunOutcome>& outcomes, std::size_t variant) {
  std::vector<const RunOutcome*> found;
  for (const RunOutcome& o : outcomes) {
    if (o.run.variant == variant && !o.run.stability) found.push_back(&o);
  }
  return found;
}

/// Differences a − b in final loss, seed by seed.
Interval paired(const std::vector<RunOutcome>& outcomes, std::size_t a, std::size_t b) {
  std::vector<double> differences;
  for (const RunOutcome* x : main_runs(outcomes, a)) {
    for (const RunOutcome* y : main_runs(outcomes, b)) {
      if (x->run.seed == y->run.seed) differences.push_back(x->loss - y->loss);
    }
  }
  return interval_of(differences);
}

/// Curves of several seeds as one: the mean at each point that all have.
Json mean_curve(const std::vector<const RunOutcome*>& runs, std::vector<double> RunOutcome::*x,
                std::vector<double> RunOutcome::*y) {
  std::vector<double> at, mean;
  for (std::size_t i = 0;; ++i) {
    double sum = 0, count = 0, where = 0;
    for (const RunOutcome* run : runs) {
      if (i < (run->*y).size() && std::isfinite((run->*y)[i]))
        sum += (run->*y)[i], where = (run->*x)[i], ++count;
    }
    if (count == 0) break;
    at.push_back(where), mean.push_back(sum / count);
  }
  return {{"tokens", at}, {"loss", mean}};
}

/// One statement of the paper, as a difference between two variants that it expects to be negative.
struct Claim {
  const char* statement;
  const char* better;
  const char* worse;
};
constexpr Claim kClaims[] = {
    {"STEM in a third of the layers is better than dense at equal tokens", "third", "dense"},
    {"STEM in half of the layers is better than dense", "half", "dense"},
    {"STEM in all layers but the first is better than dense", "full", "dense"},
    {"STEM is better than hashed experts", "third", "hash_moe"},
    {"more layers with tables are better: half against third", "half", "third"},
    {"a table in place of the gate is worse than dense", "dense", "stem_gate"},
};

Json claims_of(const std::vector<StudyVariant>& variants, const std::vector<RunOutcome>& outcomes) {
  const auto index = [&](std::string_view name) {
    const auto found =
        std::find_if(variants.begin(), variants.end(), [&](const auto& v) { return v.name == name; });
    return static_cast<std::size_t>(found - variants.begin());
  };
  Json claims = Json::array();
  for (const Claim& claim : kClaims) {
    const std::size_t better = index(claim.better), worse = index(claim.worse);
    if (better == variants.size() || worse == variants.size()) continue;
    const Interval d = paired(outcomes, better, worse);
    if (d.count == 0) continue;
    const char* verdict = d.count < 2          ? "one seed"
                          : !d.excludes_zero() ? "undecided"
                          : d.mean < 0         ? "for"
                                               : "against";
    claims.push_back({{"claim", claim.statement},
                      {"compared", fmt::format("{} − {}", claim.better, claim.worse)},
                      {"difference", interval_json(d)},
                      {"verdict", verdict}});
  }
  return claims;
}

Json stability_of(const std::vector<StudyVariant>& variants, const std::vector<RunOutcome>& outcomes) {
  std::vector<double> rates;
  bool any = false;
  for (const RunOutcome& o : outcomes) {
    any = any || o.run.stability;
    if (std::find(rates.begin(), rates.end(), o.run.lr) == rates.end()) rates.push_back(o.run.lr);
  }
  Json rows = Json::array();
  if (!any) return rows;
  std::sort(rates.begin(), rates.end());
  for (std::size_t v = 0; v < variants.size(); ++v) {
    for (const double lr : rates) {
      std::int64_t runs = 0, spikes = 0, diverged = 0;
      std::vector<double> losses;
      for (const RunOutcome& o : outcomes) {
        if (o.run.variant != v || o.run.lr != lr) continue;
        ++runs, spikes += o.spikes, diverged += o.diverged ? 1 : 0;
        losses.push_back(o.diverged ? NAN : o.loss);
      }
      if (runs > 0)
        rows.push_back({{"variant", variants[v].name},
                        {"lr", lr},
                        {"runs", runs},
                        {"spikes", spikes},
                        {"diverged", diverged},
                        {"loss", number_or_null(mean_of(losses, 0, losses.size()))}});
    }
  }
  return rows;
}

}  // namespace

double student_t(std::int64_t freedom) {
  constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                               2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                               2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
  if (freedom < 1) return NAN;
  if (freedom <= 30) return kTable[freedom - 1];
  const auto n = static_cast<double>(freedom);  // Cornish-Fisher: right to three digits from here on
  constexpr double z = 1.959964;
  return z + (z * z * z + z) / (4 * n) + (5 * std::pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * n * n);
}

Interval interval_of(const std::vector<double>& values) {
  std::vector<double> finite;
  for (const double value : values) {
    if (std::isfinite(value)) finite.push_back(value);
  }
  Interval i;
  i.count = static_cast<std::int64_t>(finite.size());
  i.mean = mean_of(finite, 0, finite.size());
  i.low = i.high = i.deviation = NAN;
  if (i.count < 2) return i;
  double squares = 0;
  for (const double value : finite) squares += (value - i.mean) * (value - i.mean);
  i.deviation = std::sqrt(squares / static_cast<double>(i.count - 1));
  const double half = student_t(i.count - 1) * i.deviation / std::sqrt(static_cast<double>(i.count));
  i.low = i.mean - half, i.high = i.mean + half;
  return i;
}

RunOutcome read_outcome(const StudyRun& run, const std::filesystem::path& run_directory) {
  const RunLog log = read_run_log(run_directory);
  RunOutcome o;
  o.run = run;
  o.loss = NAN;
  double tokens = 0, first = NAN, last = NAN;
  std::vector<double> at, losses, rates;
  for (const Json& line : log.metrics) {
    tokens += member(line, "tokens");
    const double loss = member(line, "loss");
    o.spikes += line.contains("spike") ? 1 : 0;
    o.diverged = o.diverged || !std::isfinite(loss) || !std::isfinite(member(line, "norm_dense"));
    if (std::isfinite(loss)) last = loss;
    if (std::isnan(first)) first = loss;
    at.push_back(tokens), losses.push_back(loss), rates.push_back(member(line, "tokens_per_s"));
    if (const double held_out = member(line, "eval_loss"); line.contains("eval_loss")) {
      o.eval_tokens.push_back(tokens), o.eval_losses.push_back(held_out);
      o.loss = held_out;
    }
  }
  o.diverged = o.diverged || !(last <= first);
  if (o.diverged && !std::isfinite(o.loss)) o.loss = NAN;
  std::erase_if(rates, [](double rate) { return !std::isfinite(rate); });
  if (!rates.empty()) {
    const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    o.tokens_per_s = *middle;
  }
  const std::size_t group = std::max<std::size_t>(1, (losses.size() + kCurvePoints - 1) / kCurvePoints);
  for (std::size_t i = 0; i < losses.size(); i += group) {
    const std::size_t end = std::min(i + group, losses.size());
    o.tokens.push_back(mean_of(at, i, end)), o.losses.push_back(mean_of(losses, i, end));
  }
  return o;
}

Json study_results(const std::vector<StudyVariant>& variants, std::int64_t vocab,
                   const std::vector<RunOutcome>& outcomes, std::int64_t planned_runs) {
  Json results{{"format", "stem-study/1"},
               {"runs_done", static_cast<std::int64_t>(outcomes.size())},
               {"runs_planned", planned_runs},
               {"variants", Json::array()}};
  std::size_t dense = variants.size();
  for (std::size_t v = 0; v < variants.size(); ++v) {
    if (variants[v].name == "dense") dense = v;
  }
  for (std::size_t v = 0; v < variants.size(); ++v) {
    const std::vector<const RunOutcome*> runs = main_runs(outcomes, v);
    const Accounting a = account(variants[v].settings.resolve_model(vocab));
    std::vector<double> losses, rates;
    Json list = Json::array();
    for (const RunOutcome* run : runs) {
      losses.push_back(run->loss), rates.push_back(run->tokens_per_s);
      list.push_back({{"name", run->run.name},
                      {"seed", run->run.seed},
                      {"loss", number_or_null(run->loss)},
                      {"tokens_per_s", run->tokens_per_s},
                      {"spikes", run->spikes},
                      {"diverged", run->diverged}});
    }
    Json entry{{"name", variants[v].name},
               {"definition", variants[v].definition},
               {"dense_parameters", a.dense_parameters},
               {"table_parameters", a.table_parameters},
               {"active_parameters", a.active_parameters},
               {"training_flops_per_token", 3 * a.flops_per_token},
               {"loss", interval_json(interval_of(losses))},
               {"tokens_per_s", number_or_null(mean_of(rates, 0, rates.size()))},
               {"runs", list},
               {"curve", mean_curve(runs, &RunOutcome::tokens, &RunOutcome::losses)},
               {"held_out", mean_curve(runs, &RunOutcome::eval_tokens, &RunOutcome::eval_losses)}};
    if (dense < variants.size() && v != dense)
      entry["difference"] = interval_json(paired(outcomes, v, dense));
    results["variants"].push_back(std::move(entry));
  }
  results["claims"] = claims_of(variants, outcomes);
  results["stability"] = stability_of(variants, outcomes);
  return results;
}

}  // namespace stem
