#include "report/atlas_report.h"

#include <cmath>

#include "report/atlas_sections.h"
#include "report/fields.h"

namespace stem {
namespace {

/// The answer of swap's "before" or "after"; empty when there is none.
std::string answer_of(const Json& results, std::string_view edit, std::string_view side) {
  const Json* section = object_of(results, edit);
  const Json* answers = section == nullptr ? nullptr : object_of(*section, side);
  return answers == nullptr ? std::string() : string_of(*answers, "answer");
}

/// Mean of a field of the score's templates, weighted by their cases; NaN when there are none.
double mean_over_templates(const Json& results, std::string_view field) {
  const Json* score = object_of(results, "score");
  if (score == nullptr) return NAN;
  double sum = 0, cases = 0;
  for (const Json& line : objects_of(*score, "templates")) {
    const double value = number_of(line, field), weight = number_of(line, "cases");
    if (!std::isfinite(value)) continue;
    const double n = std::isfinite(weight) && weight > 0 ? weight : 1;
    sum += n * value, cases += n;
  }
  return cases > 0 ? sum / cases : NAN;
}

void write_tiles(Page& page, const Json& results) {
  std::vector<std::pair<std::string, Html>> tiles;
  const auto number = [&](std::string name, double value, std::string text) {
    if (std::isfinite(value)) tiles.emplace_back(std::move(name), escape(text));
  };
  for (const auto& [edit, name] : {std::pair{"swap", "one slot reads a donor's record"},
                                   {"blend", "one slot reads a mean of records"}}) {
    const std::string before = answer_of(results, edit, "before"), after = answer_of(results, edit, "after");
    if (!before.empty() && !after.empty()) tiles.emplace_back(name, html("{} → {}", before, after));
  }
  const double success = mean_over_templates(results, "swap_success");
  number("of all swaps answer with the donor's fact", success, percent(success));
  if (const Json* training = object_of(results, "training")) {
    const double perplexity = number_of(*training, "validation_perplexity"),
                 speed = number_of(*training, "tokens_per_s");
    number("perplexity on held-out text", perplexity, significant(perplexity));
    number("tokens a second in training", speed, grouped(speed));
    const double seconds = number_of(*training, "seconds");
    number("of training, from nothing", seconds, duration(seconds));
  }
  page.tiles(tiles);
}

}  // namespace

std::string atlas_report(const Json& results) {
  std::string title = string_of(results, "title"), subtitle = string_of(results, "created");
  for (const char* key : {"machine", "command"}) {
    const std::string more = string_of(results, key);
    if (!more.empty()) subtitle += fmt::format("{}{}", subtitle.empty() ? "" : " — ", more);
  }
  Page page(title.empty() ? "Atlas: what a STEM model believes, and how to change it" : title, subtitle);
  write_tiles(page, results);
  write_words(page);
  write_training(page, results);
  write_where(page, results);
  write_swap(page, results);
  write_blend(page, results);
  write_patch(page, results);
  write_attack(page, results);
  write_ablation(page, results);
  write_score(page, results);
  write_cosines(page, results);
  write_limits(page, results);
  return page.finish();
}

}  // namespace stem
