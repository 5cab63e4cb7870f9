#include "report/conversion_report.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "report/page_check.h"

namespace stem {
namespace {

Json loss(const char* name, double before, double after) {
  return {
      {"name", name}, {"positions", 1000}, {"dense_perplexity", before}, {"perplexity", after}, {"kl", 0.25}};
}

Json sample() {
  Json r{
      {"model", "out/<rows>"},
      {"parent", "out/dense"},
      {"judged_on", "the held-out texts"},
      {"all", loss("all", 20, 25)},
      {"by_text", {loss("a&b.txt", 20, 25), loss("c.txt", 10, 11)}},
      {"by_frequency", {loss("never", 30, 60)}},
      {"layers", {{{"layer", 0}, {"stream_error", 0.01}}, {{"layer", 2}, {"stream_error", 0.04}}}},
      {"damage",
       {{{"layer", 0}, {"damage", -0.001}, {"ffn_error", 0.01}},
        {{"layer", 1}, {"damage", 0.5}, {"ffn_error", 0.3}},
        {{"layer", 2}, {"damage", 0.125}, {"ffn_error", 0.2}}}},
      {"texts", {{{"file", "a&b.txt"}, {"tokens", 5000}, {"calibration_tokens", 4000}, {"row_tokens", 777}}}},
      {"vocab", 500},
      {"distinct_tokens", 400},
      {"unseen_share", 0.03},
      {"seconds", 71}};
  r["cost"]["dense"] = {{"dense_parameters", 1000000}, {"flops_per_token", 2e6}};
  r["cost"]["converted"] = {{"dense_parameters", 900000}, {"flops_per_token", 1.8e6}};
  r["speed"]["dense"] = {
      {"prefill_tokens_per_s", 1000.0}, {"decode_tokens_per_s", 50.0}, {"weight_bytes", 5e8}};
  r["speed"]["converted"] = {
      {"prefill_tokens_per_s", 1200.0}, {"decode_tokens_per_s", 54.5}, {"weight_bytes", 4e8}};
  r["suites"] = {{{"name", "arc<easy>"},
                  {"metric", "acc"},
                  {"items", 600},
                  {"dense", 0.5},
                  {"converted", 0.47},
                  {"standard_error", 0.02}}};
  r["facts"] = {
      {{"id", "is"}, {"text", "The capital of {X} is"}, {"cases", 32}, {"dense", 20}, {"converted", 15}}};
  return r;
}

TEST(ConversionReport, ShowsWhatItCostAndIsSound) {
  const std::string page = conversion_report(sample());
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(outside_reference(page), "");
  for (const char* part :
       {"1.250", "a&amp;b.txt", "out/&lt;rows&gt;", "layer 0, converted", "0.1250", "2.000",
        "100 of the vocabulary", "1 min 11 s", "54.5", "500\u00A0MB", "arc&lt;easy&gt;", "\u22120.030",
        "75.0", "The capital of {X} is", "for rows alone", "777", "In layers 0 and 2 of out/dense", "layer 2",
        "20.0\u00A0%"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(page.find("layer 1, converted"), std::string::npos);
  EXPECT_EQ(page.find("W_o"), std::string::npos);
  Json all = sample();
  all["settings"]["refit"] = "all";
  EXPECT_NE(conversion_report(all).find("W_d and W_o"), std::string::npos);
}

TEST(ConversionReport, LeavesOutWhatIsMissingAndNamesWhatIsWrong) {
  EXPECT_EQ(markup_fault(conversion_report(Json::object())), "");
  Json wrong = sample();
  wrong["all"]["kl"] = "much";
  EXPECT_THROW(conversion_report(wrong), Error);
}

}  // namespace
}  // namespace stem
