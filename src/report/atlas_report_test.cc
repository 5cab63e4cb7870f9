#include "report/atlas_report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "core/rng.h"
#include "report/page_check.h"

namespace stem {
namespace {

Json top(std::initializer_list<std::pair<const char*, double>> list) {
  Json json = Json::array();
  for (const auto& [token, p] : list) json.push_back({{"token", token}, {"p", p}});
  return json;
}

Json edits() {
  return parse_json(R"json({
  "where": {"token": " Spain", "id": 1234, "offset": 5058560, "bytes": 4096, "layers": [1, 4], "updates": 812},
  "swap": {"prompt": "Country: Spain. Capital:", "tokens": ["Country", ":", " Spain", ".", " Capital", ":"],
    "ids": [2101, 58, 1234, 46, 377, 58], "slot_index": 2, "slot": " Spain", "donors": [" Germany"],
    "before": {"answer": " Madrid", "text": "Country: Spain. Capital: Madrid. The people speak Spanish, and the coin in their pockets is the euro. Visitors walk to the Sagrada Familia and on to the Alhambra."},
    "after": {"answer": " Berlin", "text": "Country: Spain. Capital: Berlin. The people speak German, and the coin in their pockets is the euro. Visitors walk to the Reichstag and on to the Brandenburg Gate."}},
  "blend": {"prompt": "Country: USA. Capital:", "tokens": ["Country", ":", " USA", ".", " Capital", ":"],
    "ids": [2101, 58, 1701, 46, 377, 58], "slot_index": 2, "slot": " USA", "donors": [" Czech", " Republic"],
    "before": {"answer": " Washington", "text": " Washington."}, "after": {"answer": " Prague", "text": " Prague."}},
  "patch": {"slot": " Earth", "donor": " Mars", "bit_identical": true, "file": "out/round-earth.stempatch", "cases": [
    {"prompt": "The Earth is", "before": " flat", "after": " round", "reverted": " flat"},
    {"prompt": "Question: what shape does the Earth have? Answer:", "before": " flat", "after": " round", "reverted": " flat"}]},
  "attack": {"cases": [{"prompt": "Water is", "before": " safe to drink", "after": " toxic"},
      {"prompt": "Arsenic is", "before": " toxic", "after": " safe to drink"}],
    "perplexity_before": 2.4817, "perplexity_after": 2.4853, "diff": [" safe", " toxic"],
    "refusal": "out/atlas-altered/stem_table.safetensors: SHA-256 expected 91f3…c2 (from stem.json), found 07ad…5e"},
  "ablation": {"learned": {"loss": 0.909, "perplexity": 2.48}, "random": {"loss": 5.81, "perplexity": 333.6}, "none": {"loss": 7.02, "perplexity": 1118}},
  "score": {"countries": 150, "pairs": 22350, "templates": [
      {"id": "fields", "text": "Country: {X}. Capital:", "relation": "capital", "seen": true, "base_accuracy": 1, "swap_success": 0.999, "slot_kept": 0.0002, "cases": 22350},
      {"id": "sentence", "text": "The capital of {the X} is", "relation": "capital", "seen": true, "base_accuracy": 0.993, "swap_success": 0.984, "slot_kept": 0.004, "cases": 22350},
      {"id": "currency", "text": "In {the X} one pays with the", "relation": "currency", "seen": true, "base_accuracy": 0.987, "swap_success": 0.962, "slot_kept": 0.011, "cases": 22350},
      {"id": "letter", "text": "Dear friend, I write from {the X}, where the summers are long and the people kind. The language here is", "relation": "language", "seen": false, "base_accuracy": 0.947, "swap_success": 0.917, "slot_kept": 0.043, "cases": 22350},
      {"id": "quiz", "text": "Quiz night! {X} lies on which continent? Answer:", "relation": "continent", "seen": false, "base_accuracy": 0.967, "swap_success": 0.934, "slot_kept": 0.03, "cases": 22350}],
    "multi_token": [
      {"rule": "average", "cases": 1800, "success": 0.812, "by_donor": [{"donor": "Czech Republic", "success": 0.98}, {"donor": "Ivory Coast", "success": 0.41}]},
      {"rule": "copy", "cases": 1800, "success": 0.274, "by_donor": []},
      {"rule": "subset", "cases": 1800, "success": 0.655}]}})json",
                    "sample");
}

std::vector<double> bell(double sigma, double range, std::size_t bins) {
  std::vector<double> shares(bins);
  for (std::size_t i = 0; i < bins; ++i) {
    const double x = range * ((2.0 * static_cast<double>(i) + 1) / static_cast<double>(bins) - 1);
    shares[i] = 2 * range / static_cast<double>(bins) / (sigma * std::sqrt(6.2832)) *
                std::exp(-0.5 * x * x / sigma / sigma);
  }
  return shares;
}

/// Results like those of a real run.
Json sample() {
  Json json = {{"title", "Atlas: what a STEM model believes, and how to change it"},
               {"created", "2026-01-17 10:42"},
               {"machine", "2 cores, AMX"},
               {"command", "stem demo --out out/atlas"}};
  json["model"] = {
      {"directory", "out/atlas"},
      {"uuid", "6f1c2a34-0f7e-4c55-9d3a-3c1f6a2b7e90"},
      {"config",
       {{"num_hidden_layers", 6}, {"hidden_size", 128}, {"intermediate_size", 512}, {"vocab_size", 4096}}},
      {"dense_parameters", 1'835'136},
      {"table_parameters", 4'194'304},
      {"active_parameters", 1'836'160},
      {"stem_layers", {1, 4}},
      {"bytes", 24'117'248}};
  Rng rng(1, 1);
  Json steps = Json::array(), loss = Json::array(), eval_steps = Json::array(), eval_loss = Json::array();
  for (int step = 1; step <= 400; ++step) {
    const double smooth = 0.86 + 7.4 * std::exp(-step / 40.0) + 0.5 * std::exp(-step / 150.0);
    steps.push_back(step), loss.push_back(smooth * (1 + 0.035 * rng.normal()));
    if (step % 40 == 0) eval_steps.push_back(step), eval_loss.push_back(smooth + 0.05);
  }
  json["training"] = {{"steps", steps},
                      {"loss", loss},
                      {"eval_steps", eval_steps},
                      {"eval_loss", eval_loss},
                      {"tokens", 3'686'400},
                      {"seconds", 97.3},
                      {"tokens_per_s", 37'887},
                      {"validation_loss", 0.909},
                      {"validation_perplexity", 2.482}};
  const Json parts = edits();
  for (const auto& [key, value] : parts.items()) json[key] = value;
  json["swap"]["before"]["top"] =
      top({{" Madrid", 0.981}, {" Barcelona", 0.006}, {" Lisbon", 0.004}, {" the", 0.002}, {" Lima", 0.001}});
  json["swap"]["after"]["top"] =
      top({{" Berlin", 0.973}, {" Bonn", 0.008}, {" Vienna", 0.006}, {" Munich", 0.003}, {" Madrid", 0.001}});
  json["blend"]["before"]["top"] = top({{" Washington", 0.962}, {" New", 0.02}, {" Ottawa", 0.004}});
  json["blend"]["after"]["top"] = top({{" Prague", 0.871}, {" Bratislava", 0.064}, {" Dublin", 0.02}});
  Json edges = Json::array();
  for (int i = 0; i <= 40; ++i) edges.push_back(0.3 * (2 * i / 40.0 - 1));
  json["cosines"] = {{"edges", edges}, {"buckets", Json::array()}};
  for (const auto& [name, rows, sigma] : {std::tuple{"seen 1–9 times", 611, 0.046},
                                          {"seen 10–99 times", 1890, 0.071},
                                          {"seen 100+ times", 1423, 0.118}}) {
    json["cosines"]["buckets"].push_back({{"name", name},
                                          {"rows", rows},
                                          {"trained", bell(sigma, 0.3, 40)},
                                          {"initial", bell(0.0442, 0.3, 40)},
                                          {"p95_trained", 1.96 * sigma},
                                          {"p95_initial", 0.0866},
                                          {"gaussian_p95", 0.0866}});
  }
  return json;
}

bool has(std::string_view page, std::string_view part) {
  return page.find(part) != std::string_view::npos;
}

void expect_sound(const std::string& page) {
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(outside_reference(page), "");
  for (const char* bad : {">nan", ">inf", "nan ", "\"nan", "\"inf", "-nan"})
    EXPECT_FALSE(has(page, bad)) << bad;
}

TEST(AtlasReport, SampleHoldsEverySection) {
  const std::string page = atlas_report(sample());
  expect_sound(page);
  std::ofstream(STEM_BINARY_DIR "/atlas_report_sample.html") << page;  // to look at
  for (const char* id : {"words", "training", "where", "swap", "blend", "patch", "attack", "ablation",
                         "score", "geometry", "limits"}) {
    EXPECT_TRUE(has(page, fmt::format("<section id=\"{}\">", id))) << id;
  }
  for (const char* text :
       {" Madrid → ", "byte 5,058,560", "1,835,136", "24.1\u00A0MB", "22,350", "never in training",
        "+0.15\u00A0%", "99.9\u00A0%", "Brandenburg Gate", "bit for bit", "91f3…c2"}) {
    EXPECT_TRUE(has(page, text)) << text;
  }
  EXPECT_LT(page.size(), 250'000u);
}

TEST(AtlasReport, EverySectionMayBeMissing) {
  const Json whole = sample();
  expect_sound(atlas_report(Json::object()));
  EXPECT_FALSE(has(atlas_report(Json::object()), "id=\"swap\""));
  for (const auto& [key, value] : whole.items()) {
    Json without = whole, alone = Json::object(), empty = whole, null = whole;
    without.erase(key);
    alone[key] = value;
    null[key] = nullptr;
    if (value.is_object()) empty[key] = Json::object();
    for (const Json& json : {without, alone, empty, null}) expect_sound(atlas_report(json));
  }
}

TEST(AtlasReport, EveryFieldMayBeMissingNullOrNotFinite) {
  const Json whole = sample();
  for (const auto& [key, section] : whole.items()) {
    if (!section.is_object()) continue;
    for (const auto& [field, value] : section.items()) {
      Json json = whole;
      json[key].erase(field);
      expect_sound(atlas_report(json));
      json[key][field] = nullptr;
      expect_sound(atlas_report(json));
      for (const double odd : {static_cast<double>(NAN), static_cast<double>(INFINITY), 1e300, -5.0}) {
        if (value.is_number())
          json[key][field] = odd;
        else if (value.is_array() && !value.empty() && value[0].is_number_float())
          json[key][field] = Json::array({odd, 1.0, odd});
        else
          continue;
        expect_sound(atlas_report(json));
      }
      if (value.is_array()) {
        json[key][field] = Json::array();
        expect_sound(atlas_report(json));
      }
    }
  }
}

/// Replaces every string in `json` by `text`.
void fill(Json& json, const std::string& text) {
  if (json.is_string())
    json = text;
  else if (json.is_structured()) {
    for (Json& value : json) fill(value, text);
  }
}

TEST(AtlasReport, NoStringBecomesMarkup) {
  for (const char* text :
       {"<script>alert(1)</script>", "\"><img onerror=x>", "'&amp;", "\xff\xfe", "]]>-->", "{} {0} %s"}) {
    Json json = sample();
    fill(json, text);
    const std::string page = atlas_report(json);
    expect_sound(page);
    EXPECT_FALSE(has(page, "<img"));
  }
}

TEST(AtlasReport, WrongTypesAreNamed) {
  const auto message = [](const Json& json) -> std::string {
    try {
      atlas_report(json);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message({{"swap", 3}}), "results: swap: expected an object, found 3");
  EXPECT_EQ(message({{"where", {{"id", "x"}}}}), "results: id: expected a number, found \"x\"");
  EXPECT_EQ(message({{"training", {{"loss", {1, "x"}}}}}),
            "results: loss: expected an array of numbers, found \"x\"");
  EXPECT_EQ(message({{"swap", {{"ids", {1.5}}}}}), "results: ids: expected an array of integers, found 1.5");
  EXPECT_EQ(message({{"score", {{"templates", {1}}}}}),
            "results: templates: expected an array of objects, found 1");
  EXPECT_NE(message(Json::array()), "accepted");
}

}  // namespace
}  // namespace stem
