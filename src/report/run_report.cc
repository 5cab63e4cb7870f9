#include "report/run_report.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "report/fields.h"
#include "report/page.h"
#include "report/svg.h"

namespace stem {
namespace {

constexpr std::size_t kColours = 6;

/// One metric of a run against another; lines that lack either are left out.
Series series_of(const RunLog& run, std::string_view x, std::string_view y, std::size_t index) {
  Series series{run.name, {}, {}, index % kColours};
  for (const Json& line : run.metrics) {
    const double at = number_of(line, x), value = number_of(line, y);
    if (!std::isfinite(at) || !std::isfinite(value)) continue;
    series.x.push_back(at), series.y.push_back(value);
  }
  return series;
}

double last_of(const RunLog& run, std::string_view key) {
  const Series series = series_of(run, key, key, 0);
  return series.y.empty() ? NAN : series.y.back();
}

double best_of(const RunLog& run, std::string_view key) {
  const Series series = series_of(run, key, key, 0);
  return series.y.empty() ? NAN : *std::min_element(series.y.begin(), series.y.end());
}

double median_of(const RunLog& run, std::string_view key) {
  Series series = series_of(run, key, key, 0);
  if (series.y.empty()) return NAN;
  const auto middle = series.y.begin() + static_cast<std::ptrdiff_t>(series.y.size() / 2);
  std::nth_element(series.y.begin(), middle, series.y.end());
  return *middle;
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

void write_curve(Page& page, std::span<const RunLog> runs, std::string_view x, const std::string& x_label,
                 std::string_view y, const std::string& y_label, const Html& caption) {
  LineChart chart{x_label, y_label, {}, true};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    Series series = averaged(series_of(runs[i], x, y, i), 150);
    if (!series.y.empty()) chart.series.push_back(std::move(series));
  }
  if (!chart.series.empty()) page.figure([&](double width) { return line_chart(chart, width); }, caption);
}

void write_summary(Page& page, std::span<const RunLog> runs) {
  std::vector<std::vector<Html>> rows;
  for (const RunLog& run : runs) {
    rows.push_back(
        {escape(run.name), escape(grouped(last_of(run, "step"))), escape(fixed(last_of(run, "loss"), 4)),
         escape(fixed(last_of(run, "eval_loss"), 4)), escape(fixed(best_of(run, "eval_loss"), 4)),
         escape(grouped(median_of(run, "tokens_per_s"))), escape(duration(last_of(run, "seconds")))});
  }
  page.table({{"run"},
              {"steps", true},
              {"last loss", true},
              {"held-out", true},
              {"best held-out", true},
              {"tokens/s", true},
              {"time", true}},
             rows);
  page.paragraph(
      html("The last loss is that of one batch and noisy; held-out losses are the ones to compare. Tokens "
           "per second is the "
           "median over the run."));
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
  if (!same.empty())
    page.folded_table(runs.size() > 1 ? "Settings that all runs share" : "All settings", columns, same);
}

}  // namespace

std::string run_report(std::span<const RunLog> runs) {
  std::string names;
  for (std::size_t i = 0; i < std::min<std::size_t>(runs.size(), 12); ++i)
    names += fmt::format("{}{}", i == 0 ? "" : ", ", runs[i].name);
  if (runs.size() > 12) names += ", …";
  Page page(runs.size() == 1 ? "A training run" : "Training runs compared", names);
  if (runs.empty()) {
    page.paragraph(html("No runs were given."));
    return page.finish();
  }
  page.section("summary", "Where they ended");
  write_summary(page, runs);
  page.section("curves", "How they got there");
  const Html mean = html(
      "Long runs are drawn as means of neighbouring steps. Loss in nats per token, on a logarithmic axis.");
  write_curve(page, runs, "step", "step", "loss", "training loss", mean);
  write_curve(page, runs, "seconds", "seconds", "loss", "training loss",
              html("The same against time: what counts when runs differ in speed."));
  write_curve(page, runs, "step", "step", "eval_loss", "held-out loss",
              html("Loss on text that is not trained on."));
  write_curve(page, runs, "step", "step", "norm_dense", "gradient norm, dense weights",
              html("Before clipping."));
  write_curve(page, runs, "step", "step", "norm_table", "gradient norm, table",
              html("Before clipping; the table has its own clip norm."));
  write_curve(page, runs, "step", "step", "lr", "learning rate", html("The schedule of the dense weights."));
  write_settings(page, runs);
  return page.finish();
}

}  // namespace stem
