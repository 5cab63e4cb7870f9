#include "apps/study_plan.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "core/error.h"
#include "core/names.h"

namespace stem {
namespace {

constexpr std::int64_t kCountedTokens = 1'000'000;
constexpr std::int64_t kWidthStep = 8;  // of an enlarged F

struct Definition {
  const char* name;
  const char* variant;
  const char* layers;
  const char* sentence;
};
constexpr Definition kDefinitions[] = {
    {"dense", "dense", "none", "Every FFN is SwiGLU of width F."},
    {"dense_matched", "dense", "none", ""},  // its sentence holds the width
    {"hash_moe", "hash_moe", "third",
     "Experts of width F in the layers of third, one of 16 for each token by a fixed hash of its id."},
    {"moe", "moe", "third",
     "Experts of width F/2 in the layers of third, two of 8 for each token by a learned router."},
    {"third", "stem", "third", "A table in place of the up-projection in a third of the layers (1, 4, …)."},
    {"half", "stem", "half", "The same in half of the layers (1, 3, …)."},
    {"full", "stem", "full", "The same in all layers but the first."},
    {"stem_gate", "stem_gate", "third", "A table in place of the gate's projection, in the layers of third."},
    {"stem_additive", "stem_additive", "third",
     "The up-projection stays and a table that starts at zero is added to it, in the layers of third."},
};

void set(Settings& settings, const std::string& key, const std::string& value) {
  settings.set(key + "=" + value);
}

}  // namespace

const std::vector<std::string>& study_variant_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Definition& d : kDefinitions) all.emplace_back(d.name);
    return all;
  }();
  return names;
}

std::vector<StudyVariant> study_variants(const Settings& base, std::int64_t vocab, double distinct,
                                         const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto& known = study_variant_names();
    if (std::find(known.begin(), known.end(), name) == known.end())
      fail(ErrorCode::kUsage, "--variants: expected any of {}, found \"{}\"{}", fmt::join(known, ", "), name,
           did_you_mean(name, known));
  }
  std::vector<StudyVariant> variants;
  for (const Definition& d : kDefinitions) {
    if (!names.empty() && std::find(names.begin(), names.end(), d.name) == names.end()) continue;
    StudyVariant v{d.name, d.sentence, base};
    set(v.settings, "model.variant", d.variant);
    set(v.settings, "model.stem_layers", d.layers);
    if (v.name == "dense_matched") {
      Settings third = base;
      set(third, "model.variant", "stem");
      set(third, "model.stem_layers", "third");
      const ModelConfig stem = third.resolve_model(vocab), dense = v.settings.resolve_model(vocab);
      const double wanted = static_cast<double>(account(stem).dense_parameters) +
                            distinct * static_cast<double>(stem.table_shape().record());
      const double missing = wanted - static_cast<double>(account(dense).dense_parameters);
      const double more = missing / static_cast<double>(3 * dense.width * dense.layers);
      const auto steps = static_cast<std::int64_t>(std::lround(more / kWidthStep));
      const std::int64_t width = dense.ffn + std::max<std::int64_t>(0, steps) * kWidthStep;
      set(v.settings, "model.ffn", std::to_string(width));
      v.definition = fmt::format(
          "Dense with F = {} instead of {}: as many parameters as third's dense part and the rows of the "
          "{:.0f} distinct "
          "tokens in a training sequence have together. (Matching all rows of the table would be a model "
          "many times the "
          "size; matching one record would be a smaller one.)",
          width, dense.ffn, distinct);
    }
    v.settings.resolve_model(vocab);  // an impossible shape is told before anything is trained
    variants.push_back(std::move(v));
  }
  return variants;
}

double distinct_in_sequence(const TokenShard& shard, std::int64_t sequence) {
  const std::int64_t tokens = std::min(shard.size(), kCountedTokens), length = std::min(sequence, tokens);
  double sum = 0, runs = 0;
  for (std::int64_t first = 0; first + length <= tokens && length > 0; first += length, ++runs) {
    const auto begin = shard.tokens.begin() + first;
    sum += static_cast<double>(std::unordered_set<std::int32_t>(begin, begin + length).size());
  }
  return runs > 0 ? sum / runs : 0;
}

std::vector<StudyRun> study_runs(const std::vector<StudyVariant>& variants, std::int64_t seeds,
                                 const std::vector<double>& rates) {
  std::vector<StudyRun> runs;
  for (std::int64_t seed = 1; seed <= seeds; ++seed) {
    for (std::size_t v = 0; v < variants.size(); ++v)
      runs.push_back(
          {v, seed, variants[v].settings.train.lr, false, fmt::format("{}-seed{}", variants[v].name, seed)});
  }
  for (const double lr : rates) {
    for (std::size_t v = 0; v < variants.size(); ++v) {
      if (lr != variants[v].settings.train.lr)
        runs.push_back({v, 1, lr, true, fmt::format("{}-lr{:g}-seed1", variants[v].name, lr)});
    }
  }
  return runs;
}

Settings settings_of(const StudyVariant& variant, const StudyRun& run) {
  Settings settings = variant.settings;
  TrainOptions& train = settings.train;
  if (run.lr != train.lr) train.table_lr *= train.lr > 0 ? run.lr / train.lr : 1;
  train.lr = run.lr;
  train.seed = train.batch.seed = static_cast<std::uint64_t>(run.seed);
  return settings;
}

}  // namespace stem
