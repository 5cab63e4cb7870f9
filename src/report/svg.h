// Charts as inline SVG. Each is a function of its width in pixels, so that a page can hold one for a desk and
// one for a phone. Colours and fonts are classes of the page's style sheet (page.h); no ids, no scripts.
#pragma once

#include <string>
#include <vector>

#include "report/html.h"

namespace stem {

/// Round numbers that cover [low, high] with about `count` steps of 1, 2 or 5 times a power of ten; with
/// `log`, 1-2-5 numbers between positive ends. Empty when the range is not finite.
std::vector<double> nice_ticks(double low, double high, int count, bool log = false);

/// One line of a chart. Points that are not finite (or not positive on a log axis) break the line.
struct Series {
  std::string name;  ///< in the legend; empty: not listed
  std::vector<double> x;
  std::vector<double> y;   ///< as long as x; more of either is left out
  std::size_t colour = 0;  ///< 0 .. 5
  bool faint = false;      ///< a thin background line
  bool dots = false;       ///< marks every point
};

struct LineChart {
  std::string x_label, y_label;
  std::vector<Series> series;
  bool log_y = false;
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
