// One HTML file that needs nothing else: no script, no font, no picture from elsewhere. It follows the
// reader's light or dark setting, prints, and fits a phone.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "report/html.h"

namespace stem {

/// A column's heading; numbers stand right-aligned.
struct Column {
  std::string name;
  bool number = false;
};

class Page {
 public:
  Page(std::string_view title, std::string_view subtitle);

  /// Starts a section and lists it in the contents. `id` is made of letters, digits and dashes.
  void section(std::string_view id, std::string_view title);
  void paragraph(const Html& text);
  /// A paragraph set off from the rest: a limit, a warning.
  void note(const Html& text);
  /// Key figures, each a value over its name.
  void tiles(const std::vector<std::pair<std::string, Html>>& figures);
  /// Names and values, one a line.
  void facts(const std::vector<std::pair<std::string, Html>>& lines);
  void table(const std::vector<Column>& columns, const std::vector<std::vector<Html>>& rows);
  /// A table that unfolds when its title is clicked.
  void folded_table(std::string_view title, const std::vector<Column>& columns,
                    const std::vector<std::vector<Html>>& rows);
  /// A picture drawn once for a wide and once for a narrow screen.
  void figure(const std::function<Html(double width)>& draw, const Html& caption);
  /// Pictures side by side on a wide screen, below each other on a narrow one.
  void figures(const std::vector<std::pair<Html, std::function<Html(double width)>>>& titled,
               const Html& caption);
  /// Two texts to compare.
  void compare(std::string_view left_title, const Html& left, std::string_view right_title,
               const Html& right);
  void add(const Html& block) { body_ += block; }

  /// The whole document.
  std::string finish() const;

 private:
  std::string title_, subtitle_;
  std::vector<std::pair<std::string, std::string>> sections_;
  Html body_;
};

/// A short bar in the colour of a chart's series, before its name: tables as legends.
Html swatch(std::size_t colour);

/// A share in [0, 1] as a small bar and a number, for table cells.
Html meter(double share);

}  // namespace stem
