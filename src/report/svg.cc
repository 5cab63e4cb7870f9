#include "report/svg.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

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
  constexpr std::pair<double, const char*> kUnits[] = {
      {1e18, "E"}, {1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}};
  for (const auto& [unit, name] : kUnits) {
    if (size >= unit && size < 1e21) return significant(value / unit, 6) + name;
  }
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
  for (const double tick : nice_ticks(frame.x.range.low, frame.x.range.high, x_ticks, frame.x.log)) {
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
  const bool log_x = frame.x.log;
  const std::size_t points = std::min(series.x.size(), series.y.size());
  std::string path;
  Html dots;
  bool pen_down = false;
  std::size_t run = 0;
  for (const std::size_t i :
       thinned(series, points, static_cast<std::size_t>(2 * (frame.right - frame.left)), log)) {
    if (!usable(series.x[i], log_x) || !usable(series.y[i], log)) {
      pen_down = false;
      continue;
    }
    const double x = frame.x(series.x[i]), y = frame.y(series.y[i]);
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", x, y);
    run = pen_down ? run + 1 : 0;
    pen_down = true;
    if (series.dots)
      dots += html("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\" class=\"fill{}\"/>", x, y,
                   series.colour % kColours);
  }
  if (!path.empty())
    out += html("<path d=\"{}\" class=\"line{}{}\"/>", path, series.colour % kColours,
                series.faint ? " faint" : "");
  // A lone point has no line to be seen by.
  if (!series.dots && points > 0 && path.find('L') == std::string::npos && !path.empty()) {
    out += html("<path d=\"{}h0.1\" class=\"line{} lone\"/>", path, series.colour % kColours);
  }
  out += dots;
}

// Rings around single points; the title is what a browser shows under the pointer.
void draw_marks(Html& out, const Frame& frame, const Series& series) {
  constexpr std::size_t kMost = 200;
  for (const Series::Mark& mark : std::span(series.marks).first(std::min(series.marks.size(), kMost))) {
    if (!usable(mark.x, frame.x.log) || !usable(mark.y, frame.y.log)) continue;
    out +=
        html("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" class=\"line{} mark\"><title>{}</title></circle>",
             frame.x(mark.x), frame.y(mark.y), series.colour % kColours, mark.text);
  }
}

struct EndName {
  std::string name;
  std::size_t colour = 0;
  double value = 0;
};

// Each name as near to its line's end as the others allow: pushed down from the top, then up from the bottom.
void draw_end_names(Html& out, const Frame& frame, std::vector<EndName> ends) {
  constexpr double kLine = 14;
  std::stable_sort(ends.begin(), ends.end(),
                   [](const EndName& a, const EndName& b) { return a.value > b.value; });
  std::vector<double> at(ends.size());
  double limit = frame.top;
  for (std::size_t i = 0; i < ends.size(); ++i) {
    at[i] = std::max(frame.y(ends[i].value), limit);
    limit = at[i] + kLine;
  }
  limit = frame.bottom;
  for (std::size_t i = ends.size(); i-- > 0;) {
    at[i] = std::min(at[i], limit);
    limit = at[i] - kLine;
  }
  for (std::size_t i = 0; i < ends.size(); ++i)
    out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"text{}\">{}</text>", frame.right + 7, at[i] + 4,
                ends[i].colour, ends[i].name);
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
  std::vector<EndName> ends;
  for (const Series& series : chart.series) {
    std::size_t last = series.x.size();
    for (std::size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
      if (!usable(series.x[i], chart.log_x) || !usable(series.y[i], chart.log_y)) continue;
      x.add(series.x[i]), y.add(series.y[i]);
      last = i;
    }
    for (const Series::Mark& mark : series.marks) {
      if (usable(mark.x, chart.log_x) && usable(mark.y, chart.log_y)) x.add(mark.x), y.add(mark.y);
    }
    if (last == series.x.size() || series.name.empty()) continue;
    entries.push_back({series.name, series.colour % kColours, false, series.dots});
    ends.push_back({shortened(series.name, 18), series.colour % kColours, series.y[last]});
  }
  if (x.empty()) return nothing_to_show(width, chart.y_label);
  x.widen_if_flat(chart.log_x), y.widen_if_flat(chart.log_y);
  if (chart.log_y)
    y.low /= std::pow(y.high / y.low, 0.04), y.high *= std::pow(y.high / y.low, 0.02);
  else if (y.low > 0 && y.low < 0.35 * y.high)
    y.low = 0;

  Html out = open(width, height, fmt::format("{} by {}", chart.y_label, chart.x_label));
  const bool at_ends = chart.names_at_ends && width >= 600;
  double right = width - 18;
  if (at_ends) {
    std::size_t longest = 0;
    for (const EndName& end : ends) longest = std::max(longest, characters(end.name));
    right -= kCharacter * static_cast<double>(longest);
    entries.clear();
  }
  const double top = legend(out, entries, 56, width - 10, 0) + 26;
  const Frame frame{
      {x, 56, right, chart.log_x}, {y, height - 44, top, chart.log_y}, 56, right, top, height - 44};
  draw_axes(out, frame, chart.x_label, chart.y_label, width >= 600 ? 8 : 5, tick_text);
  for (const Series& series : chart.series) draw_series(out, frame, series, chart.log_y);
  for (const Series& series : chart.series) draw_marks(out, frame, series);
  if (at_ends) draw_end_names(out, frame, std::move(ends));
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
    if (!series.values.empty())
      entries.push_back({series.name, series.colour % kColours, entries.empty(), false});
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
                 x0, at, std::max(x1 - x0 - 0.6, 0.4), frame.bottom - at, series.colour % kColours);
      }
    }
    if (!outline.empty()) out += html("<path d=\"{}\" class=\"line{}\"/>", outline, series.colour % kColours);
  }
  out.text += "</svg>";
  return out;
}

Html interval_chart(const IntervalChart& chart, double width) {
  Range x;
  double longest = 4, texts = 0;
  for (const auto& line : chart.lines) {
    if (!usable(line.value, false)) continue;
    x.add(line.value);
    for (const double end : {line.low, line.high}) {
      if (usable(end, false)) x.add(end);
    }
    for (const double point : line.points) {
      if (usable(point, false)) x.add(point);
    }
    longest = std::max(longest, static_cast<double>(characters(line.label)));
    texts = std::max(texts, static_cast<double>(characters(line.text)));
  }
  if (x.empty()) return nothing_to_show(width, chart.x_label);
  const bool has_reference = usable(chart.reference, false);
  if (has_reference) x.add(chart.reference);
  x.widen_if_flat(false);
  const double pad = 0.04 * (x.high - x.low);
  x.low -= pad, x.high += pad;
  const double line_height = 30, left = std::min(longest * kCharacter + 14, 0.34 * width);
  const double right = width - (width >= 600 ? texts * kCharacter + 14 : 10), top = has_reference ? 22 : 6;
  const double bottom = top + line_height * static_cast<double>(chart.lines.size());
  const Scale scale{x, left, std::max(right, left + 60)};
  Html out = open(width, bottom + 44, chart.x_label);
  for (const double tick : nice_ticks(x.low, x.high, width >= 600 ? 7 : 4)) {
    out += html(
        "<path d=\"M{0:.1f} {1:.1f}V{2:.1f}\" class=\"grid\"/><text x=\"{0:.1f}\" y=\"{3:.1f}\" "
        "class=\"label\" "
        "text-anchor=\"middle\">{4}</text>",
        scale(tick), top, bottom, bottom + 17, tick_text(tick));
  }
  if (has_reference) {
    out += html("<path d=\"M{0:.1f} {1:.1f}V{2:.1f}\" class=\"axis\"/>", scale(chart.reference), top, bottom);
    out += html("<text x=\"{:.1f}\" y=\"13\" class=\"label\" text-anchor=\"middle\">{}</text>",
                scale(chart.reference), chart.reference_name);
  }
  double y = top + line_height / 2;
  for (const auto& line : chart.lines) {
    const std::size_t colour = line.colour % kColours;
    out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label strong\" text-anchor=\"end\">{}</text>",
                left - 10, y + 4, shortened(line.label, static_cast<std::size_t>(left / kCharacter)));
    for (const double point : line.points) {
      if (usable(point, false))
        out += html("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.6\" class=\"fill{} bar\"/>", scale(point),
                    y + 8, colour);
    }
    if (usable(line.value, false)) {
      if (usable(line.low, false) && usable(line.high, false))
        out += html("<path d=\"M{:.1f} {:.1f}H{:.1f}\" class=\"line{}\"/>", scale(line.low), y,
                    scale(line.high), colour);
      out += html("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\" class=\"fill{}\"/>", scale(line.value), y,
                  colour);
    }
    if (width >= 600)
      out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label strong\" text-anchor=\"end\">{}</text>",
                  width - 2, y + 4, line.text);
    y += line_height;
  }
  out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label\" text-anchor=\"end\">{}</text></svg>", scale.to,
              bottom + 36, chart.x_label);
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
             left, y + 5, size, bar.colour % kColours);
    out += html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"label strong\">{}</text>", left + room + 8, y + 19,
                bar.text);
    y += line;
  }
  out.text += "</svg>";
  return out;
}

}  // namespace stem
