// Charts as inline SVG. Each is a function of its width in pixels, so that a page can hold one for a desk and
// one for a phone. Colours and fonts are classes of the page's style sheet (page.h); no ids, no scripts.
#pragma once

#include <string>
#include <vector>

#include "report/html.h"

namespace stem {

/// Colours of series: classes line0, fill0, … of the style sheet.
inline constexpr std::size_t kColours = 10;

/// Round numbers that cover [low, high] with about `count` steps of 1, 2 or 5 times a power of ten; with
/// `log`, 1-2-5 numbers between positive ends. Empty when the range is not finite.
std::vector<double> nice_ticks(double low, double high, int count, bool log = false);

/// One line of a chart. Points that are not finite (or not positive on a log axis) break the line.
struct Series {
  std::string name;  ///< in the legend; empty: not listed
  std::vector<double> x;
  std::vector<double> y;   ///< as long as x; more of either is left out
  std::size_t colour = 0;  ///< 0 .. kColours - 1
  bool faint = false;      ///< a thin background line
  bool dots = false;       ///< marks every point
  /// Points to stand out, each with what a pointer over it reads; they need not be on the line.
  struct Mark {
    double x = 0, y = 0;
    std::string text;
  };
  std::vector<Mark> marks = {};
};

struct LineChart {
  std::string x_label, y_label;
  std::vector<Series> series;
  bool log_y = false;
  bool log_x = false;
  /// Names stand at the lines' ends where there is room for it, instead of in a legend.
  bool names_at_ends = false;
};

/// Lines over shared axes. Long series are thinned to the extremes of each pixel column.
Html line_chart(const LineChart& chart, double width);

/// The mean of each run of neighbouring points, at most `count` of them: a readable curve out of a noisy one.
Series averaged(const Series& series, std::size_t count);

/// Shares per bin: the first series as bars, the others as outlines over them.
struct Histogram {
  std::vector<double> edges;  ///< [bins + 1], ascending
  struct Shares {
    std::string name;
    std::vector<double> values;  ///< [bins]
    std::size_t colour = 0;
  };
  std::vector<Shares> series;
  std::string x_label, y_label;
  double y_max = 0;  ///< 0: fits the data
};
Html histogram(const Histogram& chart, double width);

/// Values with intervals, one a line, around a reference.
struct IntervalChart {
  struct Line {
    std::string label;
    double value = 0, low = 0, high = 0;  ///< not finite ends: a point alone
    std::vector<double> points;           ///< what the value is the mean of
    std::string text;                     ///< at the right
    std::size_t colour = 0;
  };
  std::vector<Line> lines;
  std::string x_label;
  double reference = 0;  ///< a vertical rule; not finite: none
  std::string reference_name;
};
Html interval_chart(const IntervalChart& chart, double width);

/// Horizontal bars from zero.
struct BarChart {
  struct Bar {
    std::string label;
    double value = 0;
    std::string text;  ///< at the bar's end
    std::size_t colour = 0;
  };
  std::vector<Bar> bars;
  double max = 0;  ///< value of a full bar; 0: the largest
};
Html bar_chart(const BarChart& chart, double width);

}  // namespace stem
