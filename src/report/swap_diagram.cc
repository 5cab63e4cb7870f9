#include "report/swap_diagram.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace stem {
namespace {

constexpr double kMono = 8.5;       // width of a character of the 14 px token font
constexpr double kSmallMono = 7.3;  // of the 12 px one
constexpr double kChipHeight = 30;
constexpr double kChipLine = 60;  // chip, its id, air
constexpr std::size_t kMostTokens = 40, kMostDonors = 3, kMostRows = 8, kMostAnswers = 5;

struct Point {
  double x = 0, y = 0;
};

Html text(double x, double y, std::string_view classes, std::string_view anchor, std::string_view content) {
  return html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\" text-anchor=\"{}\">{}</text>", x, y, classes,
              anchor, content);
}

/// A token with its space marks in a quiet colour.
Html token_text(double x, double y, std::string_view classes, std::string_view anchor, std::string_view token,
                std::size_t most) {
  const std::string shown = shortened(visible(token), most);
  Html out = html("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\" text-anchor=\"{}\">", x, y, classes, anchor);
  constexpr std::string_view kDot = "·";
  if (shown.starts_with(kDot) && token.starts_with(' ')) {
    out += html("<tspan class=\"quiet\">·</tspan>{}", std::string_view(shown).substr(kDot.size()));
  } else {
    out += html("{}", shown);
  }
  out.text += "</text>";
  return out;
}

/// A vertical S from one point to another, with a head that points down.
Html arrow(Point from, Point to, std::string_view kind) {
  const double bend = std::max(18.0, 0.55 * (to.y - from.y));
  return html(
      "<path d=\"M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}\" class=\"arrow {}\"/>"
      "<path d=\"M{:.1f} {:.1f}l-5 -9h10z\" class=\"head {}\"/>",
      from.x, from.y, from.x, from.y + bend, to.x, to.y - bend, to.x, to.y - 7, kind, to.x, to.y, kind);
}

/// The prompt's chips, each line centred; sets `slot` to the foot of the slot's chip and returns where they
/// end.
double draw_chips(Html& out, const SwapDiagram& d, double width, double y, Point& slot) {
  constexpr std::size_t kMost = 24;
  const double padding = width >= 600 ? 18 : 13, gap = width >= 600 ? 6 : 4;
  std::size_t first = 0, last = std::min(d.tokens.size(), kMostTokens);
  if (d.slot_index < d.tokens.size() && d.slot_index >= last) {
    first = d.slot_index - kMostTokens / 2;
    last = std::min(d.tokens.size(), first + kMostTokens);
  }
  struct Chip {
    std::size_t token;  // tokens.size() stands for what is left out
    double width;
  };
  std::vector<Chip> chips;
  if (first > 0) chips.push_back({d.tokens.size(), 18});
  for (std::size_t i = first; i < last; ++i) {
    const auto letters = static_cast<double>(std::min(characters(visible(d.tokens[i])), kMost));
    const double id =
        i < d.ids.size() ? static_cast<double>(std::to_string(d.ids[i]).size()) * kSmallMono + 4 : 0;
    chips.push_back({i, std::max({letters * kMono + padding, id, 26.0})});
  }
  if (last < d.tokens.size()) chips.push_back({d.tokens.size(), 18});

  for (std::size_t begin = 0, end = 0; begin < chips.size(); begin = end, y += kChipLine) {
    double line = chips[end++].width;
    while (end < chips.size() && line + gap + chips[end].width <= width - 4) line += gap + chips[end++].width;
    double x = std::max(2.0, (width - line) / 2);
    for (std::size_t i = begin; i < end; x += chips[i++].width + gap) {
      const auto [token, w] = chips[i];
      if (token == d.tokens.size()) {
        out += text(x + w / 2, y + 20, "label", "middle", "…");
        continue;
      }
      const bool is_slot = token == d.slot_index;
      out += html(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.0f}\" rx=\"5\" class=\"chip{}\"/>", x,
          y, w, kChipHeight, is_slot ? " slot" : "");
      out += token_text(x + w / 2, y + 20, "mono", "middle", d.tokens[token], kMost);
      if (token < d.ids.size())
        out += text(x + w / 2, y + 44, "mono small quiet", "middle", std::to_string(d.ids[token]));
      if (is_slot) slot = {x + w / 2, y + 49};
    }
  }
  return y;
}

/// A record as a strip of its rows; returns its height.
double draw_record(Html& out, const SwapDiagram& d, Point at, double width, const std::string& token,
                   bool own) {
  const std::size_t count = std::clamp<std::size_t>(d.layers.size(), 1, kMostRows);
  const double cell = width / static_cast<double>(count);
  // The name in the token font, then what it is in the label font.
  const std::size_t most = static_cast<std::size_t>(std::max(4.0, (width - 62) / kMono));
  const std::string shown = shortened(visible(token), most);
  out += token_text(at.x, at.y + 14, "mono", "start", token, most);
  out += text(at.x + kMono * static_cast<double>(characters(shown)) + 7, at.y + 14, "label", "start",
              own ? "own record" : "record");
  for (std::size_t i = 0; i < count; ++i) {
    const double x = at.x + cell * static_cast<double>(i);
    out += html("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"26\" rx=\"3\" class=\"row {}\"/>",
                x, at.y + 22, cell - 3, own ? "own" : "donor");
    const std::string name = d.layers.empty() ? "rows"
                                              : fmt::format("{}{}",
                                                            cell > 96   ? "row, layer "
                                                            : cell > 60 ? "layer "
                                                                        : "",
                                                            d.layers[i]);
    if (cell > 24)
      out += text(x + (cell - 3) / 2, at.y + 39.5, own ? "label" : "label strong", "middle", name);
  }
  return 56;
}

double draw_answers(Html& out, std::span<const SwapDiagram::Answer> answers, Point at, double width,
                    bool own) {
  if (answers.empty()) return 0;
  out += token_text(at.x + width / 2, at.y + 20, own ? "mono answer own" : "mono answer donor", "middle",
                    answers[0].token, static_cast<std::size_t>(width / 13));
  double y = at.y + 34;
  const bool column_is_narrow = width < 200;
  const double name = std::clamp(0.34 * width, 62.0, 118.0), number = column_is_narrow ? 36 : 50,
               room = width - name - number - 12;
  for (const auto& answer : answers.first(std::min(answers.size(), kMostAnswers))) {
    out += token_text(at.x + name, y + 12.5, "mono small", "end", answer.token,
                      static_cast<std::size_t>(name / kSmallMono));
    const double p = std::isfinite(answer.p) ? std::clamp(answer.p, 0.0, 1.0) : 0.0;
    out += html("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"12\" rx=\"2\" class=\"track\"/>",
                at.x + name + 8, y + 2, room);
    out +=
        html("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"12\" rx=\"2\" class=\"meter {}\"/>",
             at.x + name + 8, y + 2, std::max(room * p, 1.0), own ? "own" : "donor");
    out += text(at.x + width, y + 12.5, "label", "end", percent(answer.p, column_is_narrow ? 0 : 1));
    y += 20;
  }
  return y - at.y;
}

}  // namespace

Html swap_diagram(const SwapDiagram& d, double width) {
  Html body;
  body += text(width / 2, 14, "label", "middle",
               width >= 600 ? "the prompt: text and ids are the same before and after the edit"
                            : "the prompt: same text, same ids");
  const double gutter = width >= 600 ? 56 : 16, column = (width - gutter) / 2 - 2, left = 2,
               right = width - column - 2;
  const double left_middle = left + column / 2, right_middle = right + column / 2;
  Point slot{width / 2, 84};
  Html chips;
  const double chips_end = draw_chips(chips, d, width, 24, slot);
  const double records = chips_end + (width >= 600 ? 62 : 48);
  // Arrows first: where the prompt wraps they pass behind the chips of its later lines.
  body += arrow({slot.x - 3, slot.y}, {left_middle, records - 22}, "own");
  body += arrow({slot.x + 3, slot.y}, {right_middle, records - 22}, "donor");
  body += chips;
  body += text(left_middle, records - 6, "label", "middle", "before the edit");
  body += text(right_middle, records - 6, "label strong", "middle", "with the overlay");

  const double left_end = records + 4 + draw_record(body, d, {left, records + 4}, column, d.slot, true);
  double right_end = records + 4;
  for (std::size_t i = 0; i < std::min(d.donors.size(), kMostDonors); ++i) {
    right_end += draw_record(body, d, {right, right_end}, column, d.donors[i], false);
  }
  if (d.donors.size() > 1) {
    const std::string more =
        d.donors.size() > kMostDonors ? fmt::format(" (… {} in all)", d.donors.size()) : "";
    body += text(right_middle, right_end + 10, "label strong", "middle", "their mean, row by row" + more);
    right_end += 20;
  }
  double answers = std::max(left_end, right_end) + 34;
  body += arrow({left_middle, left_end}, {left_middle, answers}, "own");
  body += arrow({right_middle, right_end}, {right_middle, answers}, "donor");
  if (width >= 600) body += text(width / 2, answers - 12, "label", "middle", "the same model");
  const double end =
      answers + std::max({draw_answers(body, d.before, {left, answers + 4}, column, true),
                          draw_answers(body, d.after, {right, answers + 4}, column, false), 20.0});
  Html out = html(
      "<svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" role=\"img\" class=\"swap\"><title>{2} reads "
      "{3}</title>",
      width, end + 8, visible(d.slot),
      d.donors.empty() ? std::string("its own record") : visible(d.donors[0]));
  out += body;
  out.text += "</svg>";
  return out;
}

}  // namespace stem
