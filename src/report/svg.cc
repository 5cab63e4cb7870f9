#include "report/svg.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace stem {
namespace {

constexpr double kTooLarge = 1e30;  // beyond it, differences of two values may overflow
constexpr double kCharacter = 6.9;  // mean width of a character of the 12 px label font

bool usable(double value, bool log) {
  return std::abs(value) < kTooLarge && (!log || value > 1e-30);
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  bool empty() const { return low > high; }
  void add(double value) { low = std::min(low, value), high = std::max(high, value); }
  void widen_if_flat(bool log) {
    if (high - low > 1e-12 * std::max(std::abs(low), std::abs(high))) return;
    if (log)
      low /= 1.5, high *= 1.5;
    else if (low == 0)
      low = -0.5, high = 0.5;
    else
      low -= 0.1 * std::abs(low), high += 0.1 * std::abs(high);
  }
};

/// A linear or logarithmic map of a value range to pixels.
struct Scale {
  Range range;
  double from = 0, to = 1;
  bool log = false;

  double operator()(double value) const {
    const double at =
        log ? (std::log(value) - std::log(range.low)) / (std::log(range.high) - std::log(range.low))
            : (value - range.low) / (range.high - range.low);
    return from + at * (to - from);
  }
};

std::string tick_text(double value) {
  const double size = std::abs(value);
  if (size >= 1e6 && size < 1e15) return significant(value / 1e6, 6) + "M";
  if (size >= 1e4 && size < 1e6) return significant(value / 1e3, 6) + "k";
  return significant(value, 6);
}

Html open(double width, double height, std::string_view title) {
  return html("<svg viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" role=\"img\"><title>{}</title>", width,
              height, width, title);
}

Html nothing_to_show(double width, std::string_view title) {
  Html out = open(width, 60, title);
  out += html("<text x=\"{:.0f}\" y=\"34\" class=\"label\" text-anchor=\"middle\">no data</text></svg>",
              width / 2);
  return out;
}

struct LegendEntry {
  std::string name;
  std::size_t colour = 0;
  bool bar = false;
  bool dots = false;
};

/// Draws names with swatches in lines from `y` on and returns the height they take.
double legend(Html& out, const std::vector<LegendEntry>& entries, double left, double right, double y) {
  constexpr double kLine = 19;
  double x = left, lines = 1;
  for (const LegendEntry& entry : entries) {
    const std::string name =
        shortened(entry.name, static_cast<std::size_t>(std::max(8.0, (right - left) / kCharacter - 6)));
    const double needs = 26 + kCharacter * static_cast<double>(characters(name)) + 14;
    if (x > left && x + needs > right + 14) x = left, ++lines;
    const double base = y + kLine * lines - 6;
    if (entry.bar) {
      out += html("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"18\" height=\"10\" class=\"fill{} bar\"/>", x,
                  base - 9, entry.colour);
    } else {
      out += html("<path d=\"M{:.1f} {:.1f}h18\" class=\"line{}\"/>", x, base - 4, entry.colour);
    }
    if (entry.dots)
      out += html("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\" class=\"fill{}\"/>", x + 9, base - 4,
                  entry.colour);
    out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label\">{}</text>", x + 24, base, name);
    x += needs;
  }
  return entries.empty() ? 0 : kLine * lines + 6;
}

/// Where a chart's plot lies, with its axes drawn.
struct Frame {
  Scale x, y;
  double left, right, top, bottom;
};

void draw_axes(Html& out, const Frame& frame, const std::string& x_label, const std::string& y_label,
               int x_ticks, std::string (*y_text)(double)) {
  for (const double tick : nice_ticks(frame.y.range.low, frame.y.range.high, 5, frame.y.log)) {
    const double at = frame.y(tick);
    out += html(
        "<path d=\"M{:.1f} {:.1f}H{:.1f}\" class=\"grid\"/><text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label\" "
        "text-anchor=\"end\">{}</text>",
        frame.left, at, frame.right, frame.left - 7, at + 4, y_text(tick));
  }
  for (const double tick : nice_ticks(frame.x.range.low, frame.x.range.high, x_ticks)) {
    const double at = frame.x(tick);
    out += html(
        "<path d=\"M{:.1f} {:.1f}v5\" class=\"axis\"/><text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label\" "
        "text-anchor=\"middle\">{}</text>",
        at, frame.bottom, at, frame.bottom + 19, tick_text(tick));
  }
  out += html("<path d=\"M{:.1f} {:.1f}H{:.1f}\" class=\"axis\"/>", frame.left, frame.bottom, frame.right);
  out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label\" text-anchor=\"end\">{}</text>", frame.right,
              frame.bottom + 36, x_label);
  out += html("<text x=\"2\" y=\"{:.1f}\" class=\"label\">{}</text>", frame.top - 10, y_label);
}

/// Keeps the first, lowest, highest and last point of every group, so that no spike is lost.
std::vector<std::size_t> thinned(const Series& series, std::size_t points, std::size_t most, bool log) {
  std::vector<std::size_t> kept;
  const std::size_t group = std::max<std::size_t>(1, 4 * points / std::max<std::size_t>(most, 4));
  for (std::size_t first = 0; first < points; first += group) {
    const std::size_t last = std::min(first + group, points) - 1;
    std::size_t low = first, high = first;
    for (std::size_t i = first; i <= last; ++i) {
      if (!usable(series.y[i], log)) continue;
      if (!usable(series.y[low], log) || series.y[i] < series.y[low]) low = i;
      if (!usable(series.y[high], log) || series.y[i] > series.y[high]) high = i;
    }
    for (const std::size_t i : {first, std::min(low, high), std::max(low, high), last}) {
      if (kept.empty() || kept.back() < i) kept.push_back(i);
    }
  }
  return kept;
}

void draw_series(Html& out, const Frame& frame, const Series& series, bool log) {
  const std::size_t points = std::min(series.x.size(), series.y.size());
  std::string path;
  Html dots;
  bool pen_down = false;
  std::size_t run = 0;
  for (const std::size_t i :
       thinned(series, points, static_cast<std::size_t>(2 * (frame.right - frame.left)), log)) {
    if (!usable(series.x[i], false) || !usable(series.y[i], log)) {
      pen_down = false;
      continue;
    }
    const double x = frame.x(series.x[i]), y = frame.y(series.y[i]);
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", x, y);
    run = pen_down ? run + 1 : 0;
    pen_down = true;
    if (series.dots)
      dots +=
          html("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\" class=\"fill{}\"/>", x, y, series.colour % 6);
  }
  if (!path.empty())
    out += html("<path d=\"{}\" class=\"line{}{}\"/>", path, series.colour % 6, series.faint ? " faint" : "");
  // A lone point has no line to be seen by.
  if (!series.dots && points > 0 && path.find('L') == std::string::npos && !path.empty()) {
    out += html("<path d=\"{}h0.1\" class=\"line{} lone\"/>", path, series.colour % 6);
  }
  out += dots;
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int count, bool log) {
  std::vector<double> ticks;
  if (!usable(low, log) || !usable(high, log) || !(low < high) || count < 1) return ticks;
  if (log) {
    const double decades = std::log10(high / low);
    for (int power = static_cast<int>(std::floor(std::log10(low))); power <= std::ceil(std::log10(high));
         ++power) {
      for (const int digit : {1, 2, 5}) {
        const double tick = digit * std::pow(10.0, power);
        const bool sparse = decades > 2.5 && digit != 1;
        const bool skipped = decades > 8 && power % static_cast<int>(decades / 4) != 0;
        if (!sparse && !skipped && tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9))
          ticks.push_back(tick);
      }
    }
    if (ticks.size() >= 2) return ticks;
    ticks.clear();  // less than a step of 1-2-5: linear ticks serve better
  }
  const double rough = (high - low) / count, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = rough <= power       ? power
                      : rough <= 2 * power ? 2 * power
                      : rough <= 5 * power ? 5 * power
                                           : 10 * power;
  const double first = std::ceil(low / step - 1e-9);
  for (int i = 0; i <= 2 * count + 2; ++i) {
    const double tick = (first + i) * step;
    if (tick > high + 1e-9 * step) break;
    ticks.push_back(std::abs(tick) < 1e-9 * step ? 0.0 : tick);
  }
  return ticks;
}

Series averaged(const Series& series, std::size_t count) {
  const std::size_t points = std::min(series.x.size(), series.y.size());
  const std::size_t group = std::max<std::size_t>(1, (points + count - 1) / std::max<std::size_t>(count, 1));
  Series out = series;
  out.x.clear(), out.y.clear();
  for (std::size_t first = 0; first < points; first += group) {
    double x = 0, y = 0, n = 0;
    for (std::size_t i = first; i < std::min(first + group, points); ++i) {
      if (usable(series.x[i], false) && usable(series.y[i], false)) x += series.x[i], y += series.y[i], ++n;
    }
    if (n > 0) out.x.push_back(x / n), out.y.push_back(y / n);
  }
  return out;
}

Html line_chart(const LineChart& chart, double width) {
  const double height = width >= 600 ? 320 : 270;
  Range x, y;
  std::vector<LegendEntry> entries;
  for (const Series& series : chart.series) {
    bool any = false;
    for (std::size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
      if (!usable(series.x[i], false) || !usable(series.y[i], chart.log_y)) continue;
      x.add(series.x[i]), y.add(series.y[i]);
      any = true;
    }
    if (any && !series.name.empty()) entries.push_back({series.name, series.colour % 6, false, series.dots});
  }
  if (x.empty()) return nothing_to_show(width, chart.y_label);
  x.widen_if_flat(false), y.widen_if_flat(chart.log_y);
  if (chart.log_y)
    y.low /= std::pow(y.high / y.low, 0.04), y.high *= std::pow(y.high / y.low, 0.02);
  else if (y.low > 0 && y.low < 0.35 * y.high)
    y.low = 0;

  Html out = open(width, height, fmt::format("{} by {}", chart.y_label, chart.x_label));
  const double top = legend(out, entries, 56, width - 10, 0) + 26;
  const Frame frame{{x, 56, width - 18}, {y, height - 44, top, chart.log_y}, 56, width - 18, top,
                    height - 44};
  draw_axes(out, frame, chart.x_label, chart.y_label, width >= 600 ? 8 : 5, tick_text);
  for (const Series& series : chart.series) draw_series(out, frame, series, chart.log_y);
  out.text += "</svg>";
  return out;
}

Html histogram(const Histogram& chart, double width) {
  const double height = width >= 600 ? 300 : 230;
  const std::size_t bins = chart.edges.size() < 2 ? 0 : chart.edges.size() - 1;
  const bool ascending = std::adjacent_find(chart.edges.begin(), chart.edges.end(),
                                            [](double a, double b) { return !(a < b); }) == chart.edges.end();
  Range y;
  std::vector<LegendEntry> entries;
  for (const auto& series : chart.series) {
    for (std::size_t i = 0; i < std::min(bins, series.values.size()); ++i) {
      if (usable(series.values[i], false)) y.add(std::max(series.values[i], 0.0));
    }
    if (!series.values.empty()) entries.push_back({series.name, series.colour % 6, entries.empty(), false});
  }
  if (bins == 0 || !ascending || y.empty() || !usable(chart.edges.front(), false) ||
      !usable(chart.edges.back(), false)) {
    return nothing_to_show(width, chart.x_label);
  }
  y.low = 0, y.high = 1.04 * std::max({y.high, chart.y_max, 1e-9});

  Html out = open(width, height, fmt::format("{} by {}", chart.y_label, chart.x_label));
  const double top = legend(out, entries, 46, width - 10, 0) + 26;
  const Frame frame{{{chart.edges.front(), chart.edges.back()}, 46, width - 14},
                    {y, height - 44, top},
                    46,
                    width - 14,
                    top,
                    height - 44};
  draw_axes(out, frame, chart.x_label, chart.y_label,
            width >= 600   ? 8
            : width >= 260 ? 4
                           : 3,
            [](double v) { return significant(100 * v, 4) + " %"; });
  for (std::size_t s = 0; s < chart.series.size(); ++s) {
    const auto& series = chart.series[s];
    std::string outline;
    for (std::size_t i = 0; i < std::min(bins, series.values.size()); ++i) {
      const double value = usable(series.values[i], false) ? std::max(series.values[i], 0.0) : 0.0;
      const double x0 = frame.x(chart.edges[i]), x1 = frame.x(chart.edges[i + 1]), at = frame.y(value);
      if (s > 0) {
        outline += fmt::format("{}{:.1f} {:.1f}H{:.1f}", i == 0 ? "M" : "L", x0, at, x1);
      } else if (value > 0) {
        out +=
            html("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" class=\"fill{} bar\"/>",
                 x0, at, std::max(x1 - x0 - 0.6, 0.4), frame.bottom - at, series.colour % 6);
      }
    }
    if (!outline.empty()) out += html("<path d=\"{}\" class=\"line{}\"/>", outline, series.colour % 6);
  }
  out.text += "</svg>";
  return out;
}

Html bar_chart(const BarChart& chart, double width) {
  double most = chart.max, longest = 4, text = 4;
  for (const auto& bar : chart.bars) {
    if (chart.max <= 0 && usable(bar.value, false)) most = std::max(most, bar.value);
    longest = std::max(longest, static_cast<double>(characters(bar.label)));
    text = std::max(text, static_cast<double>(characters(bar.text)));
  }
  if (chart.bars.empty() || !(most > 0)) return nothing_to_show(width, "bars");
  const double line = 30, left = std::min(longest * kCharacter + 16, 0.42 * width);
  const double room = std::max(20.0, width - left - text * kCharacter - 20);
  const double height = line * static_cast<double>(chart.bars.size()) + 8;
  Html out = open(width, height, "bars");
  double y = 4;
  for (const auto& bar : chart.bars) {
    const double size = usable(bar.value, false) ? room * std::clamp(bar.value / most, 0.0, 1.0) : 0;
    out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label strong\" text-anchor=\"end\">{}</text>",
                left - 8, y + 19, shortened(bar.label, static_cast<std::size_t>(left / kCharacter)));
    out += html("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"20\" rx=\"2\" class=\"track\"/>",
                left, y + 5, room);
    out +=
        html("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"20\" rx=\"2\" class=\"fill{} bar\"/>",
             left, y + 5, size, bar.colour % 6);
    out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label strong\">{}</text>", left + room + 8, y + 19,
                bar.text);
    y += line;
  }
  out.text += "</svg>";
  return out;
}

}  // namespace stem
