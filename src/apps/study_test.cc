#include <gtest/gtest.h>

#include <cmath>

#include "apps/study_results.h"
#include "core/error.h"

namespace stem {
namespace {

Settings small() {
  Settings settings;
  for (const char* s : {"model.hidden_size=64", "model.ffn=96", "model.layers=6", "train.steps=10"})
    settings.set(s);
  return settings;
}

TEST(StudyPlan, EveryVariantIsWhatItsNameSays) {
  const auto variants = study_variants(small(), 500, 40, {});
  ASSERT_EQ(variants.size(), 9u);
  const auto config = [&](std::size_t i) { return variants[i].settings.resolve_model(500); };
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(variants[i].name, study_variant_names()[i]);
  EXPECT_EQ(config(0).variant, FfnVariant::dense);
  EXPECT_EQ(config(2).variant, FfnVariant::hash_moe);
  EXPECT_EQ(config(3).variant, FfnVariant::moe);
  EXPECT_EQ(config(4).stem_layers, (std::vector<std::int64_t>{1, 4}));
  EXPECT_EQ(config(5).stem_layers, (std::vector<std::int64_t>{1, 3, 5}));
  EXPECT_EQ(config(6).stem_layers, (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  for (const std::size_t i : {2, 3, 7, 8}) EXPECT_EQ(config(i).stem_layers, config(4).stem_layers);
  // 40 rows of 2 · 96, less the 2 · 64 · 96 deleted, over 3 · 64 · 6 a unit of F: 40·192 = 7680 < 12288, so
  // nothing grows
  EXPECT_EQ(config(1).ffn, 96);
  const auto more = study_variants(small(), 500, 120, {"dense_matched"});
  ASSERT_EQ(more.size(), 1u);
  // (120 · 192 − 12288) / 1152 = 9.3: to a multiple of 8
  EXPECT_EQ(more[0].settings.resolve_model(500).ffn, 104);
  try {
    study_variants(small(), 500, 40, {"thrid"});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("did you mean \"third\"?"), std::string::npos) << e.what();
  }
}

TEST(StudyPlan, RunsGoSeedBySeedThenOverLearningRates) {
  Settings base = small();
  base.set("train.lr=0.002");
  base.set("train.table_lr=0.006");
  const auto variants = study_variants(base, 500, 40, {"dense", "third"});
  const auto runs = study_runs(variants, 2, {0.001, 0.002, 0.01});
  std::vector<std::string> names;
  for (const StudyRun& run : runs) names.push_back(run.name);
  EXPECT_EQ(names, (std::vector<std::string>{"dense-seed1", "third-seed1", "dense-seed2", "third-seed2",
                                             "dense-lr0.001-seed1", "third-lr0.001-seed1",
                                             "dense-lr0.01-seed1", "third-lr0.01-seed1"}));
  const Settings s = settings_of(variants[1], runs[7]);
  EXPECT_DOUBLE_EQ(s.train.lr, 0.01);
  EXPECT_DOUBLE_EQ(s.train.table_lr, 0.03);
  EXPECT_EQ(settings_of(variants[0], runs[2]).train.seed, 2u);
  EXPECT_EQ(settings_of(variants[0], runs[2]).train.batch.seed, 2u);
}

TEST(StudyPlan, DistinctTokensAreCountedInSequences) {
  TokenShard shard;
  shard.append(0, {1, 2, 3, 1, 1, 1, 1});  // 0 1 2 3 | 1 1 1 1
  EXPECT_DOUBLE_EQ(distinct_in_sequence(shard, 4), 2.5);
  EXPECT_DOUBLE_EQ(distinct_in_sequence(shard, 100), 4);
  EXPECT_DOUBLE_EQ(distinct_in_sequence({}, 4), 0);
}

TEST(StudyResults, Intervals) {
  const Interval i = interval_of({1.0, 2.0, 3.0});
  EXPECT_DOUBLE_EQ(i.mean, 2);
  EXPECT_DOUBLE_EQ(i.deviation, 1);
  EXPECT_NEAR(i.high - 2, 4.303 / std::sqrt(3.0), 1e-9);  // t with 2 degrees of freedom
  EXPECT_FALSE(interval_of({-1.0, 2.0, 3.0}).excludes_zero());
  EXPECT_TRUE(interval_of({-1.0, -1.1, -0.9}).excludes_zero());
  EXPECT_TRUE(std::isnan(interval_of({1.0}).low));
  EXPECT_FALSE(interval_of({1.0}).excludes_zero());
  EXPECT_EQ(interval_of({1.0, NAN, 3.0}).count, 2);
  EXPECT_NEAR(student_t(1), 12.706, 1e-3);
  EXPECT_NEAR(student_t(40), 2.021, 1e-3);
  EXPECT_NEAR(student_t(100000), 1.960, 1e-3);
}

RunOutcome outcome(std::size_t variant, std::int64_t seed, double loss, double lr = 0.003,
                   bool stability = false) {
  RunOutcome o;
  o.run = {variant, seed, lr, stability, fmt::format("v{}-{}", variant, seed)};
  o.loss = loss;
  o.tokens_per_s = 1000;
  o.diverged = std::isnan(loss);
  o.spikes = o.diverged ? 2 : 0;
  o.eval_tokens = {100, 200}, o.eval_losses = {loss + 1, loss};
  return o;
}

TEST(StudyResults, DifferencesArePairedBySeed) {
  const auto variants = study_variants(small(), 500, 40, {"dense", "third", "half"});
  // Seeds differ by more than variants: only pairing tells third from dense.
  const std::vector<RunOutcome> outcomes{
      outcome(0, 1, 5.0),  outcome(1, 1, 4.9),           outcome(2, 1, 5.3), outcome(0, 2, 5.5),
      outcome(1, 2, 5.41), outcome(2, 2, 5.2),           outcome(0, 3, 4.5), outcome(1, 3, 4.39),
      outcome(2, 3, 4.6),  outcome(0, 1, NAN, 0.1, true)};
  const Json r = study_results(variants, 500, outcomes, 12);
  const Json& third = r["variants"][1];
  EXPECT_NEAR(third["difference"]["mean"].get<double>(), -0.1, 1e-12);
  EXPECT_LT(third["difference"]["high"].get<double>(), 0);
  EXPECT_GT(third["loss"]["high"].get<double>(), 5.5);  // unpaired, all is noise
  EXPECT_FALSE(r["variants"][0].contains("difference"));
  EXPECT_EQ(r["claims"][0]["verdict"], "for");        // third − dense
  EXPECT_EQ(r["claims"][1]["verdict"], "undecided");  // half − dense
  EXPECT_EQ(r["claims"].size(), 3u);                  // and half − third; the others were not trained
  EXPECT_EQ(r["runs_done"], 10);
  ASSERT_EQ(r["stability"].size(), 4u);  // dense at two rates, the others at one
  EXPECT_EQ(r["stability"][1]["diverged"], 1);
  EXPECT_EQ(r["stability"][1]["spikes"], 2);
  EXPECT_TRUE(r["stability"][1]["loss"].is_null());
  EXPECT_NEAR(third["held_out"]["loss"][1].get<double>(), 4.9, 1e-12);
}

}  // namespace
}  // namespace stem
