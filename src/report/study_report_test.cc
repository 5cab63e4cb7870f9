#include "report/study_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "report/page_check.h"

namespace stem {
namespace {

bool has(const std::string& page, std::string_view part) {
  return page.find(part) != std::string::npos;
}

void expect_sound(const std::string& page) {
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(outside_reference(page), "");
  for (const char* bad : {">nan", "\"nan", "inf<"}) EXPECT_FALSE(has(page, bad)) << bad;
}

Json interval(double mean, double half, int count) {
  if (half < 0) return {{"mean", mean}, {"low", nullptr}, {"high", nullptr}, {"count", count}};
  return {{"mean", mean}, {"low", mean - half}, {"high", mean + half}, {"count", count}};
}

Json sample() {
  Json results{{"format", "stem-study/1"},
               {"title", "Variants & <books>"},
               {"created", "2026-01-31T12:00:00Z"},
               {"machine", "2 threads"},
               {"data", "out/books.data"},
               {"tokens", 1001472},
               {"train_tokens", 1300000},
               {"vocab_size", 4096},
               {"seeds", 3},
               {"runs_done", 30},
               {"runs_planned", 45},
               {"settings", {{"train.steps", 489}}},
               {"variants", Json::array()},
               {"claims", Json::array()},
               {"stability", Json::array()}};
  const char* const names[] = {"dense", "dense_matched", "hash_moe",  "moe",          "third",
                               "half",  "full",          "stem_gate", "stem_additive"};
  for (int i = 0; i < 9; ++i) {
    const double end = 5.2 - 0.02 * i;
    Json curve{{"tokens", Json::array()}, {"loss", Json::array()}}, held = curve, runs = Json::array();
    for (int t = 1; t <= 100; ++t)
      curve["tokens"].push_back(t * 10014),
          curve["loss"].push_back(end + 3.5 * std::exp(-t / 18.0) + 0.02 * std::sin(t * (i + 1)));
    for (int t = 1; t <= 5; ++t)
      held["tokens"].push_back(t * 200000), held["loss"].push_back(end + 2 * std::exp(-t / 1.2));
    for (int s = 1; s <= 3; ++s)
      runs.push_back({{"name", "x"},
                      {"seed", s},
                      {"loss", end + 0.01 * (s - 2)},
                      {"spikes", i == 3 ? 1 : 0},
                      {"diverged", false}});
    Json v{{"name", names[i]},
           {"definition", fmt::format("What {} is & <does>.", names[i])},
           {"dense_parameters", 1.7e6},
           {"table_parameters", i > 3 ? 2.9e6 : 0},
           {"active_parameters", 1.6e6},
           {"training_flops_per_token", 10e6 - 2e5 * i},
           {"loss", interval(end, 0.025, 3)},
           {"tokens_per_s", 15000.0},
           {"runs", runs},
           {"curve", curve},
           {"held_out", held}};
    if (i > 0) v["difference"] = interval(-0.02 * i + 0.07, 0.031, 3);
    results["variants"].push_back(v);
    for (const double lr : {0.001, 0.003, 0.01})
      results["stability"].push_back({{"variant", names[i]},
                                      {"lr", lr},
                                      {"runs", 1},
                                      {"spikes", i == 3 ? 4 : 0},
                                      {"diverged", i == 3 && lr > 0.005 ? 1 : 0},
                                      {"loss", end + 20 * lr}});
  }
  for (const char* verdict : {"for", "against", "undecided"})
    results["claims"].push_back({{"claim", "third < dense"},
                                 {"compared", "third − dense"},
                                 {"verdict", verdict},
                                 {"difference", interval(-0.1, 0.05, 3)}});
  return results;
}

TEST(StudyReport, HoldsTheStudy) {
  const std::string page = study_report(sample());
  std::ofstream(STEM_BINARY_DIR "/study_report_sample.html") << page;  // to look at
  expect_sound(page);
  for (const char* text :
       {"Variants &amp; &lt;books&gt;", "Unfinished: 30 of 45", "−0.0700", "not told apart", "1,001,472",
        "4 in 1 run", "1 diverged", "dense_matched is &amp; &lt;does&gt;", "third &lt; dense"})
    EXPECT_TRUE(has(page, text)) << text;
}

TEST(StudyReport, TheVerdictFollowsTheNumbers) {
  const std::vector<std::string> lines = study_verdict(sample());
  const std::string text = fmt::format("{}", fmt::join(lines, "\n"));
  // differences are 0.07 − 0.02 i ± 0.031: the first is worse, the second to fourth open, from the sixth on
  // better
  EXPECT_TRUE(has(text, "lowest held-out loss is that of stem_additive: 5.0400")) << text;
  EXPECT_TRUE(has(
      text,
      "Better than dense at equal tokens, beyond the 95 % interval: full (−0.050), stem_gate (−0.070) and "
      "stem_additive (−0.090)."))
      << text;
  EXPECT_TRUE(has(text, "Worse than dense: dense_matched (+0.050).")) << text;
  EXPECT_TRUE(has(
      text, "Not told apart from dense: hash_moe (+0.030), moe (+0.010), third (−0.010) and half (−0.030)"))
      << text;
  EXPECT_TRUE(has(text, "held against: 3. For: 1; against: 1; undecided: 1."));
  EXPECT_TRUE(has(text, "12 in 27 runs; runs that diverged: 1.")) << text;

  Json one = sample();
  for (Json& v : one["variants"]) {
    if (v.contains("difference")) v["difference"] = interval(-0.1, -1, 1);
    v["loss"]["count"] = 1;
  }
  EXPECT_TRUE(has(fmt::format("{}", fmt::join(study_verdict(one), "\n")), "One seed gives no interval"));
  EXPECT_TRUE(study_verdict(Json::object()).empty());
}

TEST(StudyReport, PartsMayBeMissing) {
  expect_sound(study_report(Json::object()));
  const Json whole = sample();
  for (const auto& [key, value] : whole.items()) {
    Json without = whole, null = whole;
    without.erase(key);
    null[key] = nullptr;
    expect_sound(study_report(without));
    expect_sound(study_report(null));
  }
  for (const auto& [key, value] : whole["variants"][1].items()) {
    Json without = whole;
    without["variants"][1].erase(key);
    expect_sound(study_report(without));
  }
  EXPECT_THROW(study_report({{"variants", {1}}}), Error);
  EXPECT_THROW(study_report({{"title", 1}}), Error);
}

}  // namespace
}  // namespace stem
