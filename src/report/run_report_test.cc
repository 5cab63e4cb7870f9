#include "report/run_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "core/rng.h"
#include "report/page_check.h"

namespace stem {
namespace {

bool has(const std::string& page, std::string_view part) {
  return page.find(part) != std::string::npos;
}

void expect_sound(const std::string& page) {
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(outside_reference(page), "");
  for (const char* bad : {">nan<", ">inf<", "\"nan", "NaN"}) EXPECT_FALSE(has(page, bad)) << bad;
}

RunLog run(const char* name, double speed, double rate, int steps, double flops) {
  RunLog log{name,
             {{"train", {{"learning_rate", rate}, {"steps", steps}}}, {"model", {{"ffn_variant", "stem"}}}},
             {},
             {{"dense_parameters", 6553600},
              {"table_parameters", 11534336},
              {"active_parameters", 6555008},
              {"flops_per_token", flops},
              {"memory_bytes", 4.5e8}}};
  Rng rng(7, static_cast<std::uint64_t>(steps));
  for (int step = 1; step <= steps; ++step) {
    Json line = {{"step", step},
                 {"loss", (1 + 6 * std::exp(-step * rate / 0.1)) * (1 + 0.05 * rng.normal())},
                 {"lr", rate * (1 - 0.9 * step / steps)},
                 {"table_lr", 3 * rate * (1 - 0.9 * step / steps)},
                 {"tokens", 4096},
                 {"tokens_per_s", speed + 500 * rng.normal()},
                 {"seconds", 4096 / speed},
                 {"norm_dense", 1 + 3 * std::exp(-step / 50.0)},
                 {"norm_table", 0.3}};
    if (step % 50 == 0) line["eval_loss"] = 1.1 + 6 * std::exp(-step * rate / 0.1);
    if (step == 222) line["loss"] = 6.5, line["spike"] = true;
    if (step == 223) line["spike"] = false;
    log.metrics.push_back(std::move(line));
  }
  return log;
}

TEST(RunReport, ComparesRuns) {
  const std::vector<RunLog> runs{run("dense <1>", 30000, 0.002, 300, 13e6),
                                 run("stem third", 36000, 0.003, 300, 12e6),
                                 run("stem full", 41000, 0.003, 400, 11e6)};
  const std::string page = run_report(runs);
  std::ofstream(STEM_BINARY_DIR "/run_report_sample.html") << page;
  expect_sound(page);
  const std::size_t differ = page.find("Where the runs differ"),
                    shared = page.find("Settings that all runs share");
  ASSERT_NE(differ, std::string::npos);
  ASSERT_NE(shared, std::string::npos);
  EXPECT_LT(page.find("train.learning_rate", differ), shared);
  EXPECT_GT(page.find("model.ffn_variant"), shared);
  EXPECT_TRUE(has(page, "dense &lt;1&gt;"));
  EXPECT_TRUE(has(page, ">1.64\u00A0M<"));  // tokens of the longest run: 400 steps of 4,096
  EXPECT_TRUE(has(page, ">39.0\u00A0M<"));  // training FLOPs a token of the first: three times 13 M
  EXPECT_TRUE(has(page, "40.0 s"));         // 400 steps at 41,000 tokens a second
  EXPECT_TRUE(has(page, "spike at step 222"));
  EXPECT_FALSE(has(page, "step 223"));
}

TEST(RunReport, DifferencesAreFromTheFirst) {
  const auto ended = [](const char* name, double loss) {
    return RunLog{name,
                  Json(),
                  {{{"step", 1}, {"loss", 5.0}, {"eval_loss", 4.0}}, {{"step", 2}, {"eval_loss", loss}}},
                  {}};
  };
  const std::vector<RunLog> runs{ended("a", 3.0), ended("b", 2.875), ended("c", 3.0625)};
  const std::string page = run_report(runs);
  expect_sound(page);
  EXPECT_TRUE(has(page, "−0.1250"));
  EXPECT_TRUE(has(page, "+0.0625"));
  EXPECT_FALSE(has(page, "<th class=\"n\">tokens</th>"));  // not counted here: charts are by step
  EXPECT_FALSE(has(run_report({runs.data(), 1}), "difference"));
}

TEST(RunReport, OddLogs) {
  expect_sound(run_report({}));
  const std::vector<RunLog> odd{
      {"nothing", Json(), {}, {}},
      {"<b>",
       {{"a", nullptr}, {"b", {1, 2}}},
       {{{"step", 1}, {"loss", nullptr}}, {{"loss", NAN}}, Json::object()},
       {{"flops_per_token", nullptr}}},
      {"one", {{"a", 1}}, {{{"step", 1}, {"loss", 2.0}, {"spike", {{"sigma", 7}}}}}, {}}};
  expect_sound(run_report(odd));
  for (const RunLog& log : odd) expect_sound(run_report({&log, 1}));
  std::vector<RunLog> many;
  for (int i = 0; i < 27; ++i) many.push_back(run(fmt::format("run {}", i).c_str(), 3e4, 0.002, 60, 1e6));
  expect_sound(run_report(many));
  const RunLog wrong{"w", Json(), {{{"step", 1}, {"loss", "low"}}}, {}};
  EXPECT_THROW(run_report({&wrong, 1}), Error);
}

}  // namespace
}  // namespace stem
