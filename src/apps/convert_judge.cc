#include "apps/convert_judge.h"

#include <algorithm>
#include <cmath>

#include "convert/residual_stream.h"

namespace stem {
namespace {

// Figures of one set of positions, before and after.
struct Loss {
  double dense = 0, converted = 0, divergence = 0;
  std::int64_t positions = 0;

  void add(float before, float after, float kl) {
    dense += static_cast<double>(before), converted += static_cast<double>(after);
    divergence += static_cast<double>(kl);
    ++positions;
  }
  Json json(const std::string& name) const {
    const double n = std::max(1.0, static_cast<double>(positions));
    return {{"name", name},
            {"positions", positions},
            {"dense_loss", dense / n},
            {"loss", converted / n},
            {"kl", divergence / n},
            {"dense_perplexity", std::exp(dense / n)},
            {"perplexity", std::exp(converted / n)}};
  }
};

// How often rows were made from a token.
struct FrequencyClass {
  std::int64_t below;
  const char* name;
};
constexpr FrequencyClass kFrequencyClasses[] = {
    {1, "never"}, {4, "1 to 3"}, {16, "4 to 15"}, {256, "16 to 255"}, {INT64_MAX, "256 and more"}};

std::size_t frequency_class(std::int64_t count) {
  std::size_t k = 0;
  while (count >= kFrequencyClasses[k].below) ++k;
  return k;
}

Json cost(const ModelConfig& config) {
  const Accounting a = account(config);
  return {{"dense_parameters", a.dense_parameters},
          {"table_parameters", a.table_parameters},
          {"active_parameters", a.active_parameters},
          {"flops_per_token", a.flops_per_token}};
}

}  // namespace

Json judge_conversion(const Context& ctx, const Model& dense, const Model& made,
                      const ConversionTexts& texts) {
  const CalibrationText& text = texts.held_out;
  ResidualStream of_dense(ctx, dense, text), of_made(ctx, made, text);
  for (std::int64_t l = 0; l < dense.config.layers; ++l) {
    of_dense.advance(ctx, dense, l);
    of_made.advance(ctx, made, l);
  }
  const std::vector<float> before = of_dense.losses(ctx, dense), after = of_made.losses(ctx, made),
                           kl = of_made.divergence(ctx, made, dense, of_dense);
  Loss all;
  std::vector<Loss> parts(texts.parts.size()), classes(std::size(kFrequencyClasses));
  std::int64_t unseen = 0;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const TextPart& part = texts.parts[p];
    for (std::int64_t n = part.first; n < part.first + part.count; ++n) {
      const auto i = static_cast<std::size_t>(n);
      if (text.targets()[i] < 0) continue;
      const std::int64_t count = texts.frequency[static_cast<std::size_t>(text.tokens()[i])];
      unseen += count == 0 ? 1 : 0;
      for (Loss* const loss : {&all, &parts[p], &classes[frequency_class(count)]})
        loss->add(before[i], after[i], kl[i]);
    }
  }
  Json result{
      {"all", all.json("all")},
      {"unseen_share", static_cast<double>(unseen) / std::max(1.0, static_cast<double>(all.positions))},
      {"cost", {{"dense", cost(dense.config)}, {"converted", cost(made.config)}}}};
  for (std::size_t p = 0; p < parts.size(); ++p)
    result["by_text"].push_back(parts[p].json(texts.parts[p].name));
  for (std::size_t k = 0; k < classes.size(); ++k)
    if (classes[k].positions > 0)
      result["by_frequency"].push_back(classes[k].json(kFrequencyClasses[k].name));
  return result;
}

}  // namespace stem
