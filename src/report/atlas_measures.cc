// The sections about the whole model: words, training, ablation, score, geometry.
#include <algorithm>
#include <cmath>

#include "report/atlas_sections.h"
#include "report/fields.h"
#include "report/svg.h"

namespace stem {
namespace {

using Lines = std::vector<std::pair<std::string, Html>>;

void add_number(Lines& lines, const char* name, double value, std::string (*format)(double)) {
  if (std::isfinite(value)) lines.emplace_back(name, escape(format(value)));
}

void write_loss_curve(Page& page, const Json& training) {
  Series raw{"", numbers_of(training, "steps"), numbers_of(training, "loss"), 0, true};
  if (raw.x.empty()) {
    for (std::size_t i = 0; i < raw.y.size(); ++i) raw.x.push_back(static_cast<double>(i + 1));
  }
  const Series eval{
      "held-out text", numbers_of(training, "eval_steps"), numbers_of(training, "eval_loss"), 1, false, true};
  if (raw.y.empty() && eval.y.empty()) return;
  page.figure(
      [&](double width) {
        Series smooth = averaged(raw, 60);
        smooth.name = "training text", smooth.faint = false;
        return line_chart({"step", "loss (nats per token)", {raw, smooth, eval}, true}, width);
      },
      html("How surprised the model is by the next token, on average; lower is better. The thin line is "
           "every step, the full one "
           "its mean over neighbouring steps. The axis is logarithmic."));
}

void write_multi_token(Page& page, const Json& score) {
  const Json& rules = objects_of(score, "multi_token");
  if (rules.empty()) return;
  BarChart chart;
  chart.max = 1;
  for (const Json& rule : rules) {
    const double success = number_of(rule, "success");
    chart.bars.push_back({string_of(rule, "rule"), success,
                          fmt::format("{} of {}", percent(success), grouped(number_of(rule, "cases"))), 0});
  }
  page.paragraph(
      html("<strong>Donors of several tokens.</strong> One slot, a donor name of two or more tokens: "
           "<em>average</em> reads the "
           "mean of the donor's records, <em>copy</em> the first of them, <em>subset</em> the last."));
  page.figure([&](double width) { return bar_chart(chart, width); },
              html("Share of cases in which the model answered with the donor's fact."));
  for (const Json& rule : rules) {
    std::vector<std::vector<Html>> rows;
    for (const Json& line : objects_of(rule, "by_donor")) {
      rows.push_back({escape(string_of(line, "donor")), meter(number_of(line, "success"))});
    }
    if (!rows.empty())
      page.folded_table(fmt::format("{}, donor by donor", string_of(rule, "rule")),
                        {{"donor"}, {"success", true}}, rows);
  }
}

}  // namespace

void write_words(Page& page) {
  page.section("words", "Seven words");
  page.paragraph(
      html("A language model reads text as tokens: words and pieces of words, each with a number. In most "
           "models whatever "
           "is known about a word is spread over all the weights. A STEM model keeps a part of it in a "
           "table, one entry a "
           "token, that can be read and replaced while the model runs."));
  page.facts(
      {{"row",
        html("what one STEM layer knows of one token: a list of numbers, used in place of a matrix product")},
       {"record", html("all rows of a token, one for each STEM layer, lying together in the file")},
       {"slot", html("the token in the prompt whose record is to be read differently")},
       {"donor", html("the token whose record is read instead")},
       {"overlay", html("replaced rows in force while the model runs; the table itself is not written")},
       {"patch", html("a file of replaced rows, from which an overlay is made")},
       {"manifest", html("the list of a model's files with their digests, checked when it is loaded")}});
}

void write_training(Page& page, const Json& results) {
  const Json *model = object_of(results, "model"), *training = object_of(results, "training");
  if (model == nullptr && training == nullptr) return;
  page.section("training", "The model");
  page.paragraph(
      html("Trained from nothing on this machine, on a small made text about countries, landmarks, "
           "substances, planets and "
           "occupations. Of the table only the records of the tokens at hand are read, so the "
           "<em>active</em> parameters are "
           "far fewer than those in the file."));
  Lines lines;
  if (model != nullptr) {
    const std::string directory = string_of(*model, "directory"), uuid = string_of(*model, "uuid");
    if (!directory.empty()) lines.emplace_back("model", html("<code>{}</code>", directory));
    if (!uuid.empty()) lines.emplace_back("identity", html("<code>{}</code>", uuid));
    if (const Json* config = object_of(*model, "config")) {
      const double layers = number_of(*config, "num_hidden_layers"),
                   width = number_of(*config, "hidden_size"), ffn = number_of(*config, "intermediate_size"),
                   vocab = number_of(*config, "vocab_size");
      if (std::isfinite(layers) && std::isfinite(width)) {
        lines.emplace_back("shape", html("{} layers of width {}, rows of {} numbers, {} tokens",
                                         grouped(layers), grouped(width), grouped(ffn), grouped(vocab)));
      }
    }
    const auto layers = integers_of(*model, "stem_layers");
    if (!layers.empty())
      lines.emplace_back("STEM layers",
                         html("{} (counted from 0)", fmt::format("{}", fmt::join(layers, ", "))));
    add_number(lines, "dense parameters", number_of(*model, "dense_parameters"), grouped);
    add_number(lines, "table parameters", number_of(*model, "table_parameters"), grouped);
    add_number(lines, "active for one token", number_of(*model, "active_parameters"), grouped);
    add_number(lines, "size on disk", number_of(*model, "bytes"), byte_size);
  }
  if (training != nullptr) {
    const double tokens = number_of(*training, "tokens"), seconds = number_of(*training, "seconds");
    if (std::isfinite(tokens)) {
      lines.emplace_back("trained on", std::isfinite(seconds)
                                           ? html("{} tokens in {}", grouped(tokens), duration(seconds))
                                           : html("{} tokens", grouped(tokens)));
    }
    const double loss = number_of(*training, "validation_loss"),
                 perplexity = number_of(*training, "validation_perplexity");
    if (std::isfinite(loss))
      lines.emplace_back("held-out loss",
                         html("{} nats a token (perplexity {})", fixed(loss, 4), significant(perplexity, 4)));
  }
  page.facts(lines);
  if (training != nullptr) write_loss_curve(page, *training);
}

void write_ablation(Page& page, const Json& results) {
  const Json* ablation = object_of(results, "ablation");
  if (ablation == nullptr) return;
  BarChart chart;
  std::vector<std::vector<Html>> rows;
  for (const auto& [key, name, colour] : {std::tuple{"learned", "learned table", std::size_t{2}},
                                          {"random", "random table", std::size_t{5}},
                                          {"none", "no table", std::size_t{5}}}) {
    const Json* part = object_of(*ablation, key);
    if (part == nullptr) continue;
    const double loss = number_of(*part, "loss");
    chart.bars.push_back({name, loss, fixed(loss, 3), colour});
    rows.push_back(
        {escape(name), escape(fixed(loss, 4)), escape(significant(number_of(*part, "perplexity"), 4))});
  }
  page.section("ablation", "What the table is worth");
  page.paragraph(
      html("In a STEM layer the table stands where other models have a third matrix, the up-projection. The "
           "same trained "
           "weights are tested here with the table they learnt, with one of random numbers, and with none at "
           "all (every row "
           "reads as zeros). What the difference amounts to is what the model keeps there."));
  page.figure([&](double width) { return bar_chart(chart, width); },
              html("Loss on held-out text in nats per token; lower is better."));
  page.table({{"table"}, {"loss", true}, {"perplexity", true}}, rows);
}

void write_score(Page& page, const Json& results) {
  const Json* score = object_of(results, "score");
  if (score == nullptr) return;
  page.section("score", "Does it always work?");
  const double countries = number_of(*score, "countries"), pairs = number_of(*score, "pairs");
  page.paragraph(
      html("Every country that is one token read the record of every other one{}, in several ways of asking. "
           "A swap succeeds "
           "when the model's whole answer is the donor's fact. Where it fails, the answer may still be the "
           "slot's own, or "
           "neither's.",
           std::isfinite(pairs) && std::isfinite(countries)
               ? html(": {} countries, {} ordered pairs", grouped(countries), grouped(pairs))
               : Html{}));
  std::vector<std::vector<Html>> rows;
  for (const Json& line : objects_of(*score, "templates")) {
    const bool seen = get_bool_or(line, "seen", "results", true);
    const std::string text = string_of(line, "text");
    rows.push_back({html("<code>{}</code> {}", text.empty() ? string_of(line, "id") : text,
                         seen ? Html{} : html("<span class=\"tag new\">never in training</span>")),
                    escape(string_of(line, "relation")), escape(percent(number_of(line, "base_accuracy"))),
                    meter(number_of(line, "swap_success")), escape(percent(number_of(line, "slot_kept"))),
                    escape(grouped(number_of(line, "cases")))});
  }
  if (!rows.empty()) {
    page.table({{"prompt"},
                {"asks for"},
                {"right before", true},
                {"donor's fact", true},
                {"still the slot's", true},
                {"cases", true}},
               rows);
  }
  write_multi_token(page, *score);
}

void write_cosines(Page& page, const Json& results) {
  const Json* cosines = object_of(results, "cosines");
  if (cosines == nullptr) return;
  const auto edges = numbers_of(*cosines, "edges");
  std::vector<std::pair<Html, std::function<Html(double)>>> charts;
  std::vector<std::vector<Html>> rows;
  double highest = 0;
  for (const Json& bucket : objects_of(*cosines, "buckets")) {
    for (const char* key : {"trained", "initial"}) {
      for (const double share : numbers_of(bucket, key))
        highest = std::isfinite(share) ? std::max(highest, share) : highest;
    }
  }
  for (const Json& bucket : objects_of(*cosines, "buckets")) {
    const std::string name = string_of(bucket, "name");
    rows.push_back({escape(name), escape(grouped(number_of(bucket, "rows"))),
                    escape(fixed(number_of(bucket, "p95_trained"), 3)),
                    escape(fixed(number_of(bucket, "p95_initial"), 3)),
                    escape(fixed(number_of(bucket, "gaussian_p95"), 3))});
    auto trained = numbers_of(bucket, "trained"), initial = numbers_of(bucket, "initial");
    if (trained.empty() && initial.empty()) continue;
    Histogram chart{edges,
                    {{"trained", std::move(trained), 0}, {"before training", std::move(initial), 1}},
                    "cosine",
                    "share of pairs",
                    highest};
    charts.emplace_back(html("{}", name),
                        [chart = std::move(chart)](double width) { return histogram(chart, width); });
  }
  page.section("geometry", "How the rows lie to each other");
  page.paragraph(
      html("The cosine of two rows is 1 when they point the same way, 0 when they have nothing in common. "
           "Rows drawn at random "
           "are nearly at right angles before any training, so a trained table has to be held against the "
           "table it started "
           "as, and rare words, whose rows hardly moved, against frequent ones."));
  page.figures(charts, html("Cosines of random pairs of rows, by how often their tokens were seen in "
                            "training. Bars: after training. "
                            "Line: the same pairs before it."));
  page.table({{"tokens"},
              {"how many", true},
              {"P95 |cos| trained", true},
              {"before training", true},
              {"theory, 1.96/√F", true}},
             rows);
}

}  // namespace stem
