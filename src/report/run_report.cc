#include "report/run_report.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "report/fields.h"
#include "report/page.h"
#include "report/svg.h"

namespace stem {
namespace {

constexpr std::size_t kMostSpikes = 40;

/// A run's log as columns, [lines] each, NaN where a line has no such value; what adds up is added up.
struct Curves {
  std::vector<double> step, tokens, seconds, flops;
  std::map<std::string, std::vector<double>, std::less<>> values;
  std::vector<std::size_t> spikes;  // lines
  double flops_per_token = NAN;     // of training

  const std::vector<double>& of(std::string_view key) const { return values.find(key)->second; }
};

constexpr std::string_view kKeys[] = {"loss",       "eval_loss",  "lr",          "table_lr",
                                      "norm_dense", "norm_table", "tokens_per_s"};

bool is_spike(const Json& line) {
  const auto found = line.is_object() ? line.find("spike") : line.end();
  return found != line.end() && !found->is_null() && *found != Json(false);
}

Curves curves_of(const RunLog& run) {
  Curves c;
  if (run.model.is_object()) c.flops_per_token = 3 * number_of(run.model, "flops_per_token");
  double tokens = 0, seconds = 0;
  for (std::size_t i = 0; i < run.metrics.size(); ++i) {
    const Json& line = run.metrics[i];
    tokens += number_of(line, "tokens"), seconds += number_of(line, "seconds");
    c.step.push_back(number_of(line, "step"));
    c.tokens.push_back(tokens), c.seconds.push_back(seconds), c.flops.push_back(tokens * c.flops_per_token);
    for (const std::string_view key : kKeys) c.values[std::string(key)].push_back(number_of(line, key));
    if (is_spike(line)) c.spikes.push_back(i);
  }
  for (const std::string_view key : kKeys) c.values[std::string(key)];
  return c;
}

double last_of(const std::vector<double>& values) {
  for (std::size_t i = values.size(); i-- > 0;) {
    if (std::isfinite(values[i])) return values[i];
  }
  return NAN;
}

double best_of(const std::vector<double>& values) {
  double best = NAN;
  for (const double value : values) best = std::fmin(best, value);
  return best;
}

double median_of(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) return NAN;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Mean of the last twentieth: one batch's loss is noisy.
double mean_at_end(const std::vector<double>& values) {
  double sum = 0, count = 0;
  for (std::size_t i = values.size() - (values.size() + 19) / 20; i < values.size(); ++i) {
    if (std::isfinite(values[i])) sum += values[i], ++count;
  }
  return count > 0 ? sum / count : NAN;
}

/// The report's runs, and what the x axis may be: tokens where every run counts them, steps elsewhere.
struct Runs {
  std::span<const RunLog> logs;
  std::vector<Curves> curves = {};
  bool by_tokens = true;

  const std::vector<double>& x(std::size_t run) const {
    return by_tokens ? curves[run].tokens : curves[run].step;
  }
  std::string x_name() const { return by_tokens ? "tokens" : "step"; }
};

using Column_of = const std::vector<double>& (*)(const Runs&, std::size_t);

const std::vector<double>& by_progress(const Runs& runs, std::size_t run) {
  return runs.x(run);
}
const std::vector<double>& by_seconds(const Runs& runs, std::size_t run) {
  return runs.curves[run].seconds;
}
const std::vector<double>& by_flops(const Runs& runs, std::size_t run) {
  return runs.curves[run].flops;
}

struct ChartOptions {
  Column_of x = by_progress;
  std::string x_label = {};
  bool log = true;
  bool spikes = false;
  bool dots = false;
  double from = 0;  ///< shows what lies beyond this share of the longest x, cut above most of it
};

/// Above it a chart of the end of a run shows nothing: the range of nearly all points, twice as high.
double ceiling_of(const LineChart& chart) {
  std::vector<double> all;
  for (const Series& series : chart.series) all.insert(all.end(), series.y.begin(), series.y.end());
  if (all.empty()) return INFINITY;
  std::sort(all.begin(), all.end());
  const double low = all.front(), most = all[all.size() * 97 / 100];
  return most + std::max(most - low, 1e-3 * std::abs(most));
}

LineChart chart_of(const Runs& runs, std::string_view key, const std::string& y_label,
                   const ChartOptions& o) {
  LineChart chart{o.x_label.empty() ? runs.x_name() : o.x_label, y_label, {}, o.log};
  chart.names_at_ends = runs.logs.size() > 1;
  double end = 0;
  for (std::size_t r = 0; r < runs.logs.size(); ++r) end = std::fmax(end, last_of(o.x(runs, r)));
  for (std::size_t r = 0; r < runs.logs.size(); ++r) {
    const std::vector<double>&x = o.x(runs, r), &y = runs.curves[r].of(key);
    Series all{runs.logs[r].name, {}, {}, r % kColours};
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isfinite(x[i]) && std::isfinite(y[i]) && x[i] >= o.from * end)
        all.x.push_back(x[i]), all.y.push_back(y[i]);
    }
    if (all.y.empty()) continue;
    Series series = o.dots ? all : averaged(all, o.from > 0 ? 60 : 150);
    series.dots = o.dots && all.x.size() <= 30;
    for (const std::size_t i : runs.curves[r].spikes) {
      if (o.spikes && x[i] >= o.from * end)
        series.marks.push_back({x[i], y[i],
                                fmt::format("{}: spike at step {:.0f}, {} {}", runs.logs[r].name,
                                            runs.curves[r].step[i], key, significant(y[i], 4))});
    }
    chart.series.push_back(std::move(series));
  }
  if (o.from > 0) {
    const double ceiling = ceiling_of(chart);
    for (Series& series : chart.series) {
      for (double& y : series.y) y = std::min(y, ceiling);
      for (Series::Mark& mark : series.marks) mark.y = std::min(mark.y, ceiling);
    }
  }
  return chart;
}

void write_curve(Page& page, const Runs& runs, std::string_view key, const std::string& y_label,
                 const ChartOptions& options, const Html& caption) {
  const LineChart chart = chart_of(runs, key, y_label, options);
  const bool has_course =
      std::any_of(chart.series.begin(), chart.series.end(), [](const Series& s) { return s.x.size() > 1; });
  // Single values stand in the first table.
  if (has_course) page.figure([&](double width) { return line_chart(chart, width); }, caption);
}

struct Half {
  std::string_view key;
  std::string title, label;
  ChartOptions options;
};

void write_pair(Page& page, const Runs& runs, const std::vector<Half>& halves, const Html& caption) {
  std::vector<std::pair<Html, std::function<Html(double)>>> titled;
  for (const Half& half : halves) {
    LineChart chart = chart_of(runs, half.key, half.label, half.options);
    if (chart.series.empty()) continue;
    // Colours are told by the page's first table; a legend would take half of so small a picture.
    if (runs.logs.size() > 4) {
      for (Series& series : chart.series) series.name.clear();
    }
    titled.emplace_back(html("{}", half.title), [chart](double width) { return line_chart(chart, width); });
  }
  page.figures(titled, caption);
}

Html named(const Runs& runs, std::size_t run) {
  return runs.logs.size() > 1 ? html("<span class=\"name\">{}{}</span>", swatch(run), runs.logs[run].name)
                              : html("{}", runs.logs[run].name);
}

Html difference(double value, double from, bool first) {
  if (first || !std::isfinite(value - from)) return html("–");
  const double d = value - from;
  return html("{}{}", d > 0 ? "+" : "", fixed(d, 4));
}

void write_summary(Page& page, const Runs& runs) {
  const bool several = runs.logs.size() > 1;
  std::vector<Column> columns{{"run"}, {"steps", true}};
  if (runs.by_tokens) columns.push_back({"tokens", true});
  columns.push_back({"loss", true});
  columns.push_back({"held-out", true});
  if (several) columns.push_back({"difference", true});
  for (const char* name : {"best", "tokens/s", "time", "spikes"}) columns.push_back({name, true});
  std::vector<std::vector<Html>> rows;
  const double reference = last_of(runs.curves[0].of("eval_loss"));
  for (std::size_t r = 0; r < runs.logs.size(); ++r) {
    const Curves& c = runs.curves[r];
    std::vector<Html> row{named(runs, r), escape(grouped(last_of(c.step)))};
    if (runs.by_tokens) row.push_back(escape(scaled(last_of(c.tokens))));
    row.push_back(escape(fixed(mean_at_end(c.of("loss")), 4)));
    const double held_out = last_of(c.of("eval_loss"));
    row.push_back(escape(fixed(held_out, 4)));
    if (several) row.push_back(difference(held_out, reference, r == 0));
    row.push_back(escape(fixed(best_of(c.of("eval_loss")), 4)));
    row.push_back(escape(grouped(median_of(c.of("tokens_per_s")))));
    row.push_back(escape(duration(last_of(c.seconds))));
    row.push_back(escape(grouped(static_cast<double>(c.spikes.size()))));
    rows.push_back(std::move(row));
  }
  page.table(columns, rows);
  page.paragraph(
      html("Losses in nats per token. The loss is the mean of the last twentieth of the steps; "
           "held-out losses are the ones to compare{}, the best is the lowest on the way. Tokens per second "
           "is the median over the steps, time is that of the "
           "steps alone.",
           several ? ", and the difference is that of the last held-out loss from the first run's" : ""));
}

void write_models(Page& page, const Runs& runs) {
  std::vector<std::vector<Html>> rows;
  for (std::size_t r = 0; r < runs.logs.size(); ++r) {
    const Json& m = runs.logs[r].model;
    if (!m.is_object() || m.empty()) continue;
    rows.push_back(
        {named(runs, r), escape(grouped(number_of(m, "dense_parameters"))),
         escape(grouped(number_of(m, "table_parameters"))),
         escape(grouped(number_of(m, "active_parameters"))), escape(scaled(runs.curves[r].flops_per_token)),
         escape(scaled(last_of(runs.curves[r].flops))), escape(byte_size(number_of(m, "memory_bytes")))});
  }
  if (rows.empty()) return;
  page.section("models", "What was trained");
  page.table({{"run"},
              {"dense", true},
              {"tables", true},
              {"active", true},
              {"FLOPs/token", true},
              {"FLOPs", true},
              {"memory", true}},
             rows);
  page.paragraph(
      html("Parameters without norms: in the dense part, in tables, and active for one token, which are the "
           "weights that "
           "it passes and the one record that it reads. Training FLOPs are three times the forward pass's, "
           "without the "
           "embedding lookup and without attention over the context. Memory is what <code>stem "
           "plan-train</code> expects."));
}

void write_losses(Page& page, const Runs& runs) {
  page.section("curves", "How they got there");
  std::size_t spikes = 0;
  for (const Curves& c : runs.curves) spikes += c.spikes.size();
  write_curve(page, runs, "loss", "training loss", {.spikes = true},
              html("Means of neighbouring steps, in nats per token on a logarithmic axis.{}",
                   spikes > 0 ? " Rings are steps that were told as spikes." : ""));
  write_curve(page, runs, "loss", "training loss", {.log = false, .spikes = true, .from = 0.5},
              html("The second half, on a linear axis that is cut where only spikes go."));
  write_curve(page, runs, "eval_loss", "held-out loss", {.dots = true},
              html("Loss on text that is not trained on."));
  write_curve(page, runs, "eval_loss", "held-out loss",
              {.x = by_flops, .x_label = "training FLOPs", .dots = true},
              html("The same against arithmetic: what counts when the models differ in it."));
  write_curve(page, runs, "loss", "training loss", {.x = by_seconds, .x_label = "seconds"},
              html("Against time, on the machine that it ran on."));
}

void write_course(Page& page, const Runs& runs) {
  page.section("course", "Steps");
  write_pair(page, runs,
             {{"lr", "Learning rate", "dense weights", {.log = false}},
              {"table_lr", "… of the tables", "tables", {.log = false}}},
             html("The schedules."));
  write_pair(page, runs,
             {{"norm_dense", "Gradient norm", "dense weights", {.spikes = true}},
              {"norm_table", "… of the tables", "tables", {.spikes = true}}},
             html("Before clipping; tables have a clip norm of their own."));
  write_curve(page, runs, "tokens_per_s", "tokens/s", {.log = false},
              html("Speed. Valleys are other programs on the machine, or ragged batches."));
  std::vector<std::vector<Html>> rows;
  std::size_t total = 0;
  for (std::size_t r = 0; r < runs.logs.size(); ++r) {
    const Curves& c = runs.curves[r];
    for (const std::size_t i : c.spikes) {
      if (++total > kMostSpikes) continue;
      rows.push_back({named(runs, r), escape(grouped(c.step[i])), escape(fixed(c.of("loss")[i], 4)),
                      escape(significant(c.of("norm_dense")[i])), escape(significant(c.of("norm_table")[i])),
                      escape(significant(c.of("lr")[i]))});
    }
  }
  if (rows.empty()) return;
  page.section("spikes", "Spikes");
  page.table({{"run"},
              {"step", true},
              {"loss", true},
              {"norm, dense", true},
              {"norm, tables", true},
              {"learning rate", true}},
             rows);
  if (total > kMostSpikes) page.paragraph(html("{} more are not listed.", total - kMostSpikes));
}

/// Every leaf of a configuration by its path, "train.learning_rate".
void flatten(const Json& json, const std::string& path, std::map<std::string, std::string>& leaves) {
  if (json.is_object()) {
    for (const auto& [key, value] : json.items())
      flatten(value, path.empty() ? key : path + "." + key, leaves);
  } else {
    leaves[path] = json.is_string() ? json.get<std::string>()
                                    : json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
}

void write_settings(Page& page, std::span<const RunLog> runs) {
  std::vector<std::map<std::string, std::string>> settings(runs.size());
  std::map<std::string, std::size_t> keys;
  std::vector<Column> columns{{"setting"}};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].config.is_object()) flatten(runs[i].config, "", settings[i]);
    for (const auto& [key, value] : settings[i]) ++keys[key];
    columns.push_back({runs[i].name});
  }
  std::vector<std::vector<Html>> different, same;
  for (const auto& [key, count] : keys) {
    std::vector<Html> row{html("<code>{}</code>", key)};
    bool differs = false;
    for (const auto& setting : settings) {
      const auto found = setting.find(key);
      const auto first = settings[0].find(key);
      differs = differs || (found == setting.end()) != (first == settings[0].end()) ||
                (found != setting.end() && found->second != first->second);
      row.push_back(found == setting.end() ? html("–") : escape(shortened(found->second, 200)));
    }
    (differs ? different : same).push_back(std::move(row));
  }
  if (keys.empty()) return;
  page.section("settings", "Settings");
  if (!different.empty()) {
    page.paragraph(html("Where the runs differ:"));
    page.table(columns, different);
  } else if (runs.size() > 1) {
    page.paragraph(html("The runs have the same settings."));
  }
  if (same.empty()) return;
  if (runs.size() > 1) {  // the same in every column
    for (auto& row : same) row.resize(2);
    columns = {{"setting"}, {"value"}};
  }
  page.folded_table(runs.size() > 1 ? "Settings that all runs share" : "All settings", columns, same);
}

}  // namespace

std::string run_report(std::span<const RunLog> logs) {
  std::string names;
  for (std::size_t i = 0; i < std::min<std::size_t>(logs.size(), 12); ++i)
    names += fmt::format("{}{}", i == 0 ? "" : ", ", logs[i].name);
  if (logs.size() > 12) names += ", …";
  Page page(logs.size() == 1 ? "A training run" : "Training runs compared", names);
  if (logs.empty()) {
    page.paragraph(html("No runs were given."));
    return page.finish();
  }
  Runs runs{logs, {}};
  for (const RunLog& log : logs) {
    runs.curves.push_back(curves_of(log));
    const bool empty = runs.curves.back().step.empty();
    runs.by_tokens = runs.by_tokens && (empty || std::isfinite(runs.curves.back().tokens.back()));
  }
  page.section("summary", "Where they ended");
  write_summary(page, runs);
  write_losses(page, runs);
  write_models(page, runs);
  write_course(page, runs);
  write_settings(page, logs);
  return page.finish();
}

}  // namespace stem
