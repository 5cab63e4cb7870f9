#include "apps/convert_compare.h"

#include <algorithm>

#include "apps/fact_eval.h"
#include "apps/model_speed.h"
#include "apps/progress.h"
#include "apps/suite_eval.h"
#include "generate/session.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRounds = 3;

PatchedModel open_serving(Runtime& runtime, const fs::path& model) {
  LoadOptions options;
  options.serving = true;
  options.verify = false;  // both were read and checked a moment ago
  return open_model(runtime, model, {}, options);
}

// Both models in turn, so that a machine that changes its pace changes it for both.
Json compare_speed(Runtime& runtime, const fs::path& dense, const fs::path& converted, bool quiet) {
  const PatchedModel models[] = {open_serving(runtime, dense), open_serving(runtime, converted)};
  const std::int64_t room = models[0].model().config.max_positions;
  SpeedOptions options;
  options.decode = std::min<std::int64_t>(options.decode, std::max<std::int64_t>(room / 2, 1));
  options.prompt = std::min(options.prompt, room - options.decode);
  options.repeats = 1;
  if (options.prompt < 1) return {};
  Progress progress("speed", kRounds, quiet);
  std::vector<double> prefill[2], decode[2];
  for (std::int64_t round = 0; round < kRounds; ++round) {
    for (const std::size_t m : {0u, 1u}) {
      const Timing t = measure_speed(runtime, models[m], options);
      prefill[m].push_back(static_cast<double>(options.prompt) / t.prefill[0]);
      decode[m].push_back(static_cast<double>(options.decode) / t.decode[0]);
    }
    progress.update(round + 1, fmt::format("round {}", round + 1));
  }
  Json result{{"prompt_tokens", options.prompt}, {"decode_tokens", options.decode}};
  for (const std::size_t m : {0u, 1u}) {
    const Model& model = models[m].model();
    const Table& table = model.table;
    const double record = table.present() ? static_cast<double>(table.record_bytes()) : 0.0;
    // Halfway through the answer.
    const double cache =
        static_cast<double>((options.prompt + options.decode / 2) * KvCache::row_bytes(model));
    result[m == 0 ? "dense" : "converted"] = {
        {"prefill_tokens_per_s", median(prefill[m])},
        {"decode_tokens_per_s", median(decode[m])},
        {"weight_bytes", weight_bytes(model)},
        {"table_bytes", record * static_cast<double>(model.config.vocab)},
        {"bytes_per_token", weight_bytes(model) + record + cache}};
  }
  return result;
}

}  // namespace

void check_compare_files(const CompareOptions& o) {
  for (const auto& [name, path] : o.suites) load_suite(path, {});
  if (!o.facts.empty()) load_facts(o.facts);
}

Json compare_models(Runtime& runtime, const fs::path& dense, const fs::path& converted,
                    const CompareOptions& o) {
  Json result{{"speed", compare_speed(runtime, dense, converted, o.quiet)}};
  std::vector<SuiteResult> suites[2];
  std::vector<TemplateAccuracy> facts[2];
  for (const std::size_t m : {0u, 1u}) {
    if (o.suites.empty() && o.facts.empty()) break;
    const PatchedModel opened = open_serving(runtime, m == 0 ? dense : converted);
    for (const auto& [name, path] : o.suites) {
      const Suite suite = load_suite(path, {});
      Progress progress(fmt::format("{}, {}", name, m == 0 ? "before" : "after"), std::ssize(suite.items),
                        o.quiet);
      SuiteEvalOptions options;
      options.on_progress = [&](std::int64_t done) {
        progress.update(done, fmt::format("{} of {} items", done, suite.items.size()));
      };
      suites[m].push_back(evaluate_suite(runtime.inference(), opened, name, suite, options));
    }
    if (!o.facts.empty()) facts[m] = fact_accuracy(runtime.inference(), opened, load_facts(o.facts));
  }
  for (std::size_t s = 0; s < suites[0].size(); ++s) {
    for (std::size_t i = 0; i < suites[0][s].all.metrics.size(); ++i) {
      const SuiteFigures &before = suites[0][s].all, &after = suites[1][s].all;
      result["suites"].push_back({{"name", before.name},
                                  {"metric", before.metrics[i].name},
                                  {"items", before.items},
                                  {"dense", before.metrics[i].estimate.value},
                                  {"converted", after.metrics[i].estimate.value},
                                  {"standard_error", after.metrics[i].estimate.standard_error}});
    }
  }
  for (std::size_t t = 0; t < facts[0].size(); ++t) {
    const TemplateAccuracy &before = facts[0][t], &after = facts[1][t];
    result["facts"].push_back({{"id", before.id},
                               {"text", before.text},
                               {"cases", before.cases},
                               {"dense", before.correct},
                               {"converted", after.correct}});
  }
  return result;
}

}  // namespace stem
