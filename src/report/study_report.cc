#include "report/study_report.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "report/fields.h"
#include "report/page.h"
#include "report/svg.h"

namespace stem {
namespace {

struct Range95 {
  double mean = NAN, low = NAN, high = NAN;
  std::int64_t count = 0;

  bool has_ends() const { return std::isfinite(low) && std::isfinite(high); }
  bool excludes_zero() const { return has_ends() && (low > 0 || high < 0); }
};

Range95 range_of(const Json& json, std::string_view key) {
  const Json* object = object_of(json, key);
  if (object == nullptr) return {};
  const double count = number_of(*object, "count");
  return {number_of(*object, "mean"), number_of(*object, "low"), number_of(*object, "high"),
          std::isfinite(count) ? static_cast<std::int64_t>(count) : 0};
}

std::string signed_number(double value, int decimals) {
  return std::isfinite(value) ? fmt::format("{}{}", value > 0 ? "+" : "", fixed(value, decimals)) : "–";
}

std::string interval_text(const Range95& r, bool with_sign) {
  const auto text = [&](double v) { return with_sign ? signed_number(v, 4) : fixed(v, 4); };
  if (!std::isfinite(r.mean)) return "–";
  return r.has_ends() ? fmt::format("{} [{}, {}]", text(r.mean), text(r.low), text(r.high)) : text(r.mean);
}

std::string seeds_text(double count) {
  return fmt::format("{} seed{}", grouped(count), count == 1 ? "" : "s");
}

void write_summary(Page& page, const Json& results) {
  page.section("summary", "What it shows");
  const double done = number_of(results, "runs_done"), planned = number_of(results, "runs_planned");
  if (done < planned)
    page.note(html("Unfinished: {} of {} runs. The same command goes on where it stopped.", grouped(done),
                   grouped(planned)));
  for (const std::string& sentence : study_verdict(results)) page.paragraph(html("{}", sentence));
  page.facts(
      {{"tokens",
        html("{} a run, {}", grouped(number_of(results, "tokens")), seeds_text(number_of(results, "seeds")))},
       {"text", html("{}: {} tokens, vocabulary {}", string_of(results, "data"),
                     grouped(number_of(results, "train_tokens")), grouped(number_of(results, "vocab_size")))},
       {"machine", html("{}", string_of(results, "machine"))}});
}

void write_losses(Page& page, const Json& results) {
  const Json& variants = objects_of(results, "variants");
  IntervalChart losses;
  losses.x_label = "held-out loss, nats a token";
  losses.reference = NAN;
  IntervalChart differences;
  differences.x_label = "difference in held-out loss, nats a token";
  differences.reference_name = "dense";
  std::vector<std::vector<Html>> rows;
  std::size_t colour = 0;
  for (const Json& v : variants) {
    const std::size_t own = colour++;
    const std::string name = string_of(v, "name");
    const Range95 loss = range_of(v, "loss"), difference = range_of(v, "difference");
    std::vector<double> points;
    for (const Json& run : objects_of(v, "runs")) points.push_back(number_of(run, "loss"));
    losses.lines.push_back({name, loss.mean, loss.low, loss.high, points, fixed(loss.mean, 4), own});
    if (difference.count > 0)
      differences.lines.push_back({name,
                                   difference.mean,
                                   difference.low,
                                   difference.high,
                                   {},
                                   signed_number(difference.mean, 4),
                                   own});
    Html verdict = html("–");
    if (difference.excludes_zero())
      verdict = difference.mean < 0 ? html("<span class=\"good\">better</span>")
                                    : html("<span class=\"bad\">worse</span>");
    else if (difference.has_ends())
      verdict = html("not told apart");
    rows.push_back({html("<span class=\"name\">{}{}</span>", swatch(own), name),
                    escape(interval_text(loss, false)), escape(interval_text(difference, true)), verdict});
  }
  if (rows.empty()) return;
  page.section("losses", "Where they ended");
  page.figure([&](double width) { return interval_chart(losses, width); },
              html("Held-out loss at the end: mean over seeds with its 95 % interval (Student's t); small "
                   "dots are the "
                   "seeds."));
  if (!differences.lines.empty())
    page.figure([&](double width) { return interval_chart(differences, width); },
                html("Difference from dense, seed by seed: runs of one seed read the same text in the same "
                     "order, which takes "
                     "most of the noise out. Left is better."));
  page.table({{"variant"}, {"held-out loss", true}, {"difference from dense", true}, {"against dense"}},
             rows);
  page.paragraph(
      html("Brackets are 95 % intervals. An interval that holds zero tells nothing apart; of twenty "
           "differences that "
           "are none, one is expected outside its interval."));
}

void write_claims(Page& page, const Json& results) {
  std::vector<std::vector<Html>> rows;
  for (const Json& claim : objects_of(results, "claims")) {
    const std::string verdict = string_of(claim, "verdict");
    const Html shown = verdict == "for"       ? html("<span class=\"good\">for</span>")
                       : verdict == "against" ? html("<span class=\"bad\">against</span>")
                                              : html("{}", verdict);
    rows.push_back({html("{}", string_of(claim, "claim")),
                    html("<span class=\"name\">{}</span>", string_of(claim, "compared")),
                    escape(interval_text(range_of(claim, "difference"), true)), shown});
  }
  if (rows.empty()) return;
  page.section("claims", "For and against the paper");
  page.table({{"the paper"}, {"compared"}, {"difference here", true}, {"here"}}, rows);
  page.paragraph(html(
      "Each statement expects a negative difference. The paper's models are hundreds of times larger, see a "
      "hundred thousand times more text, and are judged by benchmarks; what holds at this size need not hold "
      "there, "
      "nor the reverse."));
}

void write_curves(Page& page, const Json& results) {
  const Json& variants = objects_of(results, "variants");
  const auto chart_of = [&](const char* key, bool by_flops, bool late) {
    LineChart chart{
        by_flops ? "training FLOPs" : "tokens", *key == 'c' ? "training loss" : "held-out loss", {}, !late};
    chart.names_at_ends = true;
    std::size_t colour = 0;
    for (const Json& v : variants) {
      const std::size_t own = colour++;
      const Json* curve = object_of(v, key);
      if (curve == nullptr) continue;
      Series series{string_of(v, "name"), numbers_of(*curve, "tokens"), numbers_of(*curve, "loss"), own};
      series.dots = *key == 'h' && series.x.size() <= 30;
      if (late && series.x.size() > 2) {
        const auto half = static_cast<std::ptrdiff_t>(std::min(series.x.size(), series.y.size()) / 2);
        series.x.erase(series.x.begin(), series.x.begin() + half);
        series.y.erase(series.y.begin(), series.y.begin() + half);
      }
      if (by_flops) {
        for (double& x : series.x) x *= number_of(v, "training_flops_per_token");
      }
      if (!series.x.empty()) chart.series.push_back(std::move(series));
    }
    return chart;
  };
  const auto write = [&](const LineChart& chart, const Html& caption) {
    if (!chart.series.empty()) page.figure([&](double width) { return line_chart(chart, width); }, caption);
  };
  page.section("curves", "How they got there");
  write(chart_of("curve", false, false), html("Training loss, mean over seeds, on a logarithmic axis."));
  write(chart_of("curve", false, true), html("The second half, on a linear axis."));
  write(chart_of("held_out", true, true), html("Held-out loss against arithmetic, the second half: a variant "
                                               "that saves FLOPs stands further left."));
}

void write_models(Page& page, const Json& results) {
  std::vector<std::vector<Html>> rows;
  std::vector<std::pair<std::string, Html>> definitions;
  std::size_t colour = 0;
  for (const Json& v : objects_of(results, "variants")) {
    const Html name = html("<span class=\"name\">{}{}</span>", swatch(colour++), string_of(v, "name"));
    rows.push_back({name, escape(scaled(number_of(v, "dense_parameters"))),
                    escape(scaled(number_of(v, "table_parameters"))),
                    escape(scaled(number_of(v, "active_parameters"))),
                    escape(scaled(number_of(v, "training_flops_per_token"))),
                    escape(grouped(number_of(v, "tokens_per_s")))});
    definitions.emplace_back(string_of(v, "name"), html("{}", string_of(v, "definition")));
  }
  if (rows.empty()) return;
  page.section("models", "What was compared");
  page.facts(definitions);
  page.table({{"variant"},
              {"dense", true},
              {"tables", true},
              {"active", true},
              {"FLOPs/token", true},
              {"tokens/s", true}},
             rows);
  page.paragraph(html(
      "Parameters without norms: all but the tables (experts included), the tables, and what one token "
      "switches "
      "on. FLOPs are those of training, without attention over the context and the embedding lookup. Tokens "
      "per "
      "second is the mean over seeds of each run's median, on this machine with whatever else ran on it."));
}

void write_stability(Page& page, const Json& results) {
  const Json& rows = objects_of(results, "stability");
  if (rows.empty()) return;
  std::set<double> rates;
  for (const Json& row : rows) rates.insert(number_of(row, "lr"));
  page.section("stability", "Stability");
  std::vector<Column> columns{{"variant"}};
  for (const double lr : rates) columns.push_back({"lr " + significant(lr), true});
  std::vector<std::vector<Html>> table;
  LineChart chart{"learning rate", "held-out loss", {}, false, true};
  chart.names_at_ends = true;
  std::size_t colour = 0;
  for (const Json& v : objects_of(results, "variants")) {
    const std::size_t own = colour++;
    const std::string name = string_of(v, "name");
    std::vector<Html> line{html("<span class=\"name\">{}{}</span>", swatch(own), name)};
    Series series{name, {}, {}, own};
    series.dots = true;
    for (const double lr : rates) {
      Html cell = html("–");
      for (const Json& row : rows) {
        if (string_of(row, "variant") != name || number_of(row, "lr") != lr) continue;
        const double spikes = number_of(row, "spikes"), diverged = number_of(row, "diverged"),
                     runs = number_of(row, "runs");
        cell = html("{} in {}", grouped(spikes), runs == 1 ? "1 run" : grouped(runs) + " runs");
        if (diverged > 0) cell += html(", <span class=\"bad\">{} diverged</span>", grouped(diverged));
        series.x.push_back(lr), series.y.push_back(number_of(row, "loss"));
      }
      line.push_back(cell);
    }
    table.push_back(std::move(line));
    chart.series.push_back(std::move(series));
  }
  page.table(columns, table);
  page.paragraph(
      html("Spikes: steps whose loss lies over six robust σ above the median of the last hundred. Diverged: "
           "a loss or a "
           "gradient that is not finite, or a loss that ends above where it began."));
  page.figure([&](double width) { return line_chart(chart, width); },
              html("Held-out loss at the end by learning rate; runs that diverged are left out."));
}

}  // namespace

std::vector<std::string> study_verdict(const Json& results) {
  std::vector<std::string> lines;
  const auto names = [](const std::vector<std::string>& all) {
    std::string text;
    for (std::size_t i = 0; i < all.size(); ++i)
      text += (i == 0 ? "" : i + 1 == all.size() ? " and " : ", ") + all[i];
    return text;
  };
  std::vector<std::string> better, worse, open;
  double seeds = 0, spikes = 0, diverged = 0, runs = 0;
  std::string best;
  double lowest = INFINITY;
  for (const Json& v : objects_of(results, "variants")) {
    const Range95 loss = range_of(v, "loss"), d = range_of(v, "difference");
    if (loss.mean < lowest) lowest = loss.mean, best = string_of(v, "name");
    seeds = std::max(seeds, static_cast<double>(loss.count));
    for (const Json& run : objects_of(v, "runs")) {
      ++runs, spikes += number_of(run, "spikes");
      const auto found = run.find("diverged");
      if (found != run.end() && *found == Json(true)) ++diverged;
    }
    if (d.count == 0) continue;
    const std::string text = fmt::format("{} ({})", string_of(v, "name"), signed_number(d.mean, 3));
    (!d.excludes_zero() ? open : d.mean < 0 ? better : worse).push_back(text);
  }
  if (runs == 0) return lines;
  lines.push_back(fmt::format("The lowest held-out loss is that of {}: {} nats a token, over {}.", best,
                              fixed(lowest, 4), seeds_text(seeds)));
  if (!better.empty())
    lines.push_back(
        fmt::format("Better than dense at equal tokens, beyond the 95 % interval: {}.", names(better)));
  if (!worse.empty()) lines.push_back(fmt::format("Worse than dense: {}.", names(worse)));
  if (!open.empty())
    lines.push_back(seeds < 2 ? fmt::format("One seed gives no interval: {}.", names(open))
                              : fmt::format("Not told apart from dense: {}.", names(open)));
  std::size_t held = 0, against = 0, undecided = 0;
  for (const Json& claim : objects_of(results, "claims")) {
    const std::string verdict = string_of(claim, "verdict");
    ++(verdict == "for" ? held : verdict == "against" ? against : undecided);
  }
  if (held + against + undecided > 0)
    lines.push_back(
        fmt::format("Statements of the paper that these runs can be held against: {}. For: {}; against: {}; "
                    "undecided: {}.",
                    held + against + undecided, held, against, undecided));
  double all_spikes = spikes, all_diverged = diverged, all_runs = runs;
  if (const Json& stability = objects_of(results, "stability"); !stability.empty()) {
    all_spikes = all_diverged = all_runs = 0;
    for (const Json& row : stability)
      all_spikes += number_of(row, "spikes"), all_diverged += number_of(row, "diverged"),
          all_runs += number_of(row, "runs");
  }
  lines.push_back(fmt::format("Loss spikes: {} in {} runs; runs that diverged: {}.", grouped(all_spikes),
                              grouped(all_runs), grouped(all_diverged)));
  return lines;
}

std::string study_report(const Json& results) {
  const std::string title = string_of(results, "title");
  Page page(title.empty() ? "Variants compared" : title, string_of(results, "created"));
  write_summary(page, results);
  write_losses(page, results);
  write_claims(page, results);
  write_models(page, results);
  write_curves(page, results);
  write_stability(page, results);
  if (const Json* settings = object_of(results, "settings")) {
    std::vector<std::vector<Html>> rows;
    for (const auto& [key, value] : settings->items())
      rows.push_back(
          {html("<code>{}</code>", key),
           html("{}", value.is_string() ? value.get<std::string>()
                                        : value.dump(-1, ' ', false, Json::error_handler_t::replace))});
    page.section("settings", "Settings");
    page.folded_table("What all runs share, but for the variant, the seeds and the learning rate",
                      {{"setting"}, {"value"}}, rows);
  }
  return page.finish();
}

}  // namespace stem
