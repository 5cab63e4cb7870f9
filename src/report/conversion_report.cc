#include "report/conversion_report.h"

#include <algorithm>
#include <cmath>

#include "report/fields.h"
#include "report/page.h"
#include "report/svg.h"

namespace stem {
namespace {

double ratio_of(const Json& loss) {
  return number_of(loss, "perplexity") / number_of(loss, "dense_perplexity");
}

// "layer 4", "layers 0 and 4", "layers 0, 3 and 4".
std::string layers_of(const Json& r) {
  std::vector<std::string> names;
  for (const Json& l : objects_of(r, "layers")) names.push_back(grouped(number_of(l, "layer")));
  if (names.empty()) return "no layer";
  if (names.size() == 1) return "layer " + names.front();
  const std::string last = names.back();
  names.pop_back();
  return fmt::format("layers {} and {}", fmt::join(names, ", "), last);
}

void write_summary(Page& page, const Json& r) {
  const Json* const all = object_of(r, "all");
  if (all == nullptr) return;
  page.section("summary", "What it cost");
  page.paragraph(html("In {} of {} the up-projection is gone and every token reads a row of its own instead.",
                      layers_of(r), r.contains("parent") ? string_of(r, "parent") : "its parent"));
  page.tiles({{"perplexity before", html("{}", fixed(number_of(*all, "dense_perplexity"), 2))},
              {"perplexity after", html("{}", fixed(number_of(*all, "perplexity"), 2))},
              {"ratio", html("{}", fixed(ratio_of(*all), 3))},
              {"KL, nats a token", html("{}", fixed(number_of(*all, "kl"), 3))}});
  page.paragraph(
      html("Judged on {} tokens ({}). A row is the same wherever its token stands, and an up-projection was "
           "not: what a text needs to know of a word's surroundings suffers first, facts among it. Ask the "
           "model what you need it to know before you rely on it.",
           grouped(number_of(*all, "positions")), string_of(r, "judged_on")));
}

void write_losses(Page& page, const Json& losses, const char* id, const char* title, const char* first,
                  const Html& caption) {
  std::vector<std::vector<Html>> rows;
  for (const Json& l : losses)
    rows.push_back({html("{}", string_of(l, "name")), html("{}", grouped(number_of(l, "positions"))),
                    html("{}", fixed(number_of(l, "dense_perplexity"), 2)),
                    html("{}", fixed(number_of(l, "perplexity"), 2)), html("{}", fixed(ratio_of(l), 3)),
                    html("{}", fixed(number_of(l, "kl"), 3))});
  if (rows.empty()) return;
  page.section(id, title);
  page.table({{first}, {"tokens", true}, {"before", true}, {"after", true}, {"ratio", true}, {"KL", true}},
             rows);
  page.paragraph(caption);
}

void write_layers(Page& page, const Json& r) {
  std::vector<std::int64_t> chosen;
  std::vector<double> stream;
  for (const Json& l : objects_of(r, "layers")) {
    chosen.push_back(static_cast<std::int64_t>(number_of(l, "layer")));
    stream.push_back(std::sqrt(number_of(l, "stream_error")));
  }
  BarChart damage;
  for (const Json& d : objects_of(r, "damage")) {
    const auto layer = static_cast<std::int64_t>(number_of(d, "layer"));
    const bool taken = std::find(chosen.begin(), chosen.end(), layer) != chosen.end();
    const double nats = number_of(d, "damage");
    damage.bars.push_back({fmt::format("layer {}{}", layer, taken ? ", converted" : ""), std::max(nats, 0.0),
                           fixed(nats, 4), taken ? 0u : 1u});
  }
  if (!damage.bars.empty()) {
    page.section("damage", "Each layer alone");
    page.figure([&](double width) { return bar_chart(damage, width); },
                html("Loss in nats a token that converting this one layer adds, W_d as it was, on text set "
                     "aside to choose layers by. Damage compounds: a set costs more than its layers' sum."));
  }
  if (!stream.empty()) {
    page.section("stream", "How far the residual stream is off");
    BarChart errors;
    for (std::size_t i = 0; i < chosen.size(); ++i)
      errors.bars.push_back({fmt::format("layer {}", chosen[i]), stream[i], percent(stream[i]), 0u});
    page.figure(
        [&](double width) { return bar_chart(errors, width); },
        html("Root of the mean squared relative error of the residual stream behind each converted layer, on "
             "the calibration text, before rows are updated by further text, and before healing."));
  }
}

void write_cost(Page& page, const Json& r) {
  const Json* const cost = object_of(r, "cost");
  if (cost == nullptr) return;
  const Json *const dense = object_of(*cost, "dense"), *const made = object_of(*cost, "converted");
  if (dense == nullptr || made == nullptr) return;
  std::vector<std::vector<Html>> rows;
  const std::pair<const char*, const char*> lines[] = {{"dense_parameters", "parameters, dense"},
                                                       {"table_parameters", "parameters in the table"},
                                                       {"active_parameters", "active for a token"},
                                                       {"flops_per_token", "FLOPs a token"}};
  for (const auto& [key, name] : lines)
    rows.push_back({html("{}", name), html("{}", scaled(number_of(*dense, key))),
                    html("{}", scaled(number_of(*made, key)))});
  if (const Json* const speed = object_of(r, "speed")) {
    const Json *const before = object_of(*speed, "dense"), *const after = object_of(*speed, "converted");
    const std::pair<const char*, const char*> measured[] = {{"prefill_tokens_per_s", "prompt, tokens/s"},
                                                            {"decode_tokens_per_s", "answer, tokens/s"}};
    const std::pair<const char*, const char*> sizes[] = {
        {"weight_bytes", "weights in memory"},
        {"table_bytes", "table, in memory or on disk"},
        {"bytes_per_token", "read for a token of the answer"}};
    if (before != nullptr && after != nullptr) {
      for (const auto& [key, name] : measured)
        rows.push_back({html("{}", name), html("{}", rate(number_of(*before, key))),
                        html("{}", rate(number_of(*after, key)))});
      for (const auto& [key, name] : sizes)
        rows.push_back({html("{}", name), html("{}", byte_size(number_of(*before, key))),
                        html("{}", byte_size(number_of(*after, key)))});
    }
  }
  page.section("cost", "Size, work and speed");
  page.table({{""}, {"before", true}, {"after", true}}, rows);
}

void write_suites(Page& page, const Json& r) {
  std::vector<std::vector<Html>> suites, facts;
  for (const Json& s : objects_of(r, "suites")) {
    const double before = number_of(s, "dense"), after = number_of(s, "converted");
    suites.push_back({html("{}", string_of(s, "name")), html("{}", string_of(s, "metric")),
                      html("{}", grouped(number_of(s, "items"))), html("{}", fixed(before, 3)),
                      html("{}", fixed(after, 3)), html("{}", fixed(after - before, 3)),
                      html("{}", fixed(number_of(s, "standard_error"), 3))});
  }
  if (!suites.empty()) {
    page.section("suites", "Benchmarks");
    page.table({{"suite"},
                {"metric"},
                {"items", true},
                {"before", true},
                {"after", true},
                {"change", true},
                {"± standard error", true}},
               suites);
  }
  for (const Json& f : objects_of(r, "facts")) {
    const double before = number_of(f, "dense"), after = number_of(f, "converted");
    facts.push_back({html("{}", string_of(f, "text")), html("{}", grouped(number_of(f, "cases"))),
                     html("{}", grouped(before)), html("{}", grouped(after)),
                     html("{}", before > 0 ? percent(after / before) : std::string("–"))});
  }
  if (facts.empty()) return;
  page.section("facts", "What it still knows");
  page.table({{"prompt"}, {"asked", true}, {"right before", true}, {"right after", true}, {"kept", true}},
             facts);
  page.paragraph(html("An answer is right when greedy decoding gives all of it."));
}

void write_texts(Page& page, const Json& r) {
  std::vector<std::vector<Html>> rows;
  for (const Json& t : objects_of(r, "texts"))
    rows.push_back({html("{}", string_of(t, "file")), html("{}", grouped(number_of(t, "tokens"))),
                    html("{}", grouped(number_of(t, "calibration_tokens"))),
                    html("{}", grouped(number_of(t, "row_tokens")))});
  if (rows.empty()) return;
  page.section("texts", "What it was calibrated on");
  page.table({{"text"}, {"tokens", true}, {"calibrated on", true}, {"for rows alone", true}}, rows);
  const Json* const settings = object_of(r, "settings");
  const double healed = settings != nullptr ? number_of(*settings, "heal_tokens") : 0;
  const bool others = settings != nullptr && string_of(*settings, "refit") == "all";
  const auto setting = [&](const char* key) {
    return settings != nullptr ? significant(number_of(*settings, key), 6) : std::string("–");
  };
  page.facts(
      {{"settings", html("sequences of {} tokens, --prior {}, --ridge {}, --catch-up {}", setting("sequence"),
                         setting("prior"), setting("ridge"), setting("catch_up"))},
       {"refitted",
        html("{}", others ? "W_d of the first converted layer, W_d and W_o of every layer behind it"
                          : "W_d of the converted layers")},
       {"healed", healed > 0 ? html("by distillation on {} tokens", grouped(healed)) : html("not at all")},
       {"never seen", html("{} of the vocabulary's {} tokens; {} of the text judged on",
                           grouped(number_of(r, "vocab") - number_of(r, "distinct_tokens")),
                           grouped(number_of(r, "vocab")), percent(number_of(r, "unseen_share")))},
       {"made in", html("{}", duration(number_of(r, "seconds")))},
       {"memory", html("at most {}", byte_size(number_of(r, "peak_resident_bytes")))}});
}

}  // namespace

std::string conversion_report(const Json& r) {
  Page page("Conversion", string_of(r, "model"));
  write_summary(page, r);
  write_losses(page, objects_of(r, "by_text"), "texts-judged", "By text", "text",
               html("Perplexity before and after, and the divergence from the dense model's predictions."));
  write_losses(page, objects_of(r, "by_frequency"), "frequency", "By how often rows were made from the token",
               "times seen",
               html("Predictions made at a token, by its occurrences in the text that rows are made from. "
                    "Rows of tokens never seen come from a linear map of their embedding."));
  write_suites(page, r);
  write_layers(page, r);
  write_cost(page, r);
  write_texts(page, r);
  return page.finish();
}

}  // namespace stem
