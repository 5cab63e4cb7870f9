#include "report/page.h"

#include <algorithm>
#include <cmath>

#include "report/page_style.h"
#include "report/svg.h"

namespace stem {
namespace {

constexpr double kWide = 678, kNarrow = 336;  // inner widths of a figure on a desk and on a phone
constexpr double kHalf = 326, kThird = 208;   // of two and of three or more side by side

Html table_of(const std::vector<Column>& columns, const std::vector<std::vector<Html>>& rows) {
  Html out{"<div class=\"scroll\"><table><thead><tr>"};
  for (const Column& column : columns) {
    out += html("<th{}>{}</th>", Html{column.number ? " class=\"n\"" : ""}, column.name);
  }
  out.text += "</tr></thead><tbody>";
  for (const auto& row : rows) {
    out.text += "<tr>";
    for (std::size_t i = 0; i < columns.size(); ++i) {
      out += html("<td{}>{}</td>", Html{columns[i].number ? " class=\"n\"" : ""},
                  i < row.size() ? row[i] : Html{});
    }
    out.text += "</tr>";
  }
  out.text += "</tbody></table></div>\n";
  return out;
}

}  // namespace

Page::Page(std::string_view title, std::string_view subtitle) : title_(title), subtitle_(subtitle) {}

void Page::section(std::string_view id, std::string_view title) {
  if (!sections_.empty()) body_.text += "</section>\n";
  sections_.emplace_back(id, title);
  body_ += html("<section id=\"{}\"><h2>{}</h2>\n", id, title);
}

void Page::paragraph(const Html& text) {
  body_ += html("<p>{}</p>\n", text);
}

void Page::note(const Html& text) {
  body_ += html("<div class=\"note\"><p>{}</p></div>\n", text);
}

void Page::tiles(const std::vector<std::pair<std::string, Html>>& figures) {
  if (figures.empty()) return;
  body_.text += "<div class=\"tiles\">";
  for (const auto& [name, value] : figures) body_ += html("<div><b>{}</b><span>{}</span></div>", value, name);
  body_.text += "</div>\n";
}

void Page::facts(const std::vector<std::pair<std::string, Html>>& lines) {
  if (lines.empty()) return;
  body_.text += "<dl>";
  for (const auto& [name, value] : lines) body_ += html("<dt>{}</dt><dd>{}</dd>", name, value);
  body_.text += "</dl>\n";
}

void Page::table(const std::vector<Column>& columns, const std::vector<std::vector<Html>>& rows) {
  body_ += table_of(columns, rows);
}

void Page::folded_table(std::string_view title, const std::vector<Column>& columns,
                        const std::vector<std::vector<Html>>& rows) {
  body_ += html("<details><summary>{}</summary>{}</details>\n", title, table_of(columns, rows));
}

void Page::figure(const std::function<Html(double width)>& draw, const Html& caption) {
  body_ += html(
      "<figure><div class=\"wide\">{}</div><div "
      "class=\"narrow\">{}</div><figcaption>{}</figcaption></figure>\n",
      draw(kWide), draw(kNarrow), caption);
}

void Page::figures(const std::vector<std::pair<Html, std::function<Html(double width)>>>& titled,
                   const Html& caption) {
  if (titled.empty()) return;
  const bool three = titled.size() > 2;
  body_ += html("<figure><div class=\"beside{}\">", three ? " three" : "");
  for (const auto& [title, draw] : titled) {
    body_ += html("<div><h3>{}</h3><div class=\"wide\">{}</div><div class=\"narrow\">{}</div></div>", title,
                  draw(three ? kThird : kHalf), draw(kNarrow));
  }
  body_ += html("</div><figcaption>{}</figcaption></figure>\n", caption);
}

void Page::compare(std::string_view left_title, const Html& left, std::string_view right_title,
                   const Html& right) {
  body_ +=
      html("<div class=\"compare\"><div><h3>{}</h3><p>{}</p></div><div><h3>{}</h3><p>{}</p></div></div>\n",
           left_title, left, right_title, right);
}

std::string Page::finish() const {
  Html nav;
  for (const auto& [id, title] : sections_) nav += html("<a href=\"#{}\">{}</a>", id, title);
  if (!sections_.empty()) nav = html("<nav>{}</nav>", nav);
  return html(
             "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" "
             "content=\"width=device-width,initial-scale=1\"/><meta name=\"color-scheme\" content=\"light "
             "dark\"/>"
             "<title>{}</title><style>{}</style></head>\n<body><header><h1>{}</h1><p "
             "class=\"subtitle\">{}</p>{}</header>\n"
             "<main>\n{}{}</main>\n<footer>This page is one file: no scripts, nothing loaded from "
             "elsewhere.</footer>"
             "</body></html>\n",
             title_, Html{std::string(kPageStyle)}, title_, subtitle_, nav, body_,
             Html{sections_.empty() ? "" : "</section>\n"})
      .text;
}

Html swatch(std::size_t colour) {
  return html("<i class=\"swatch\" style=\"background:var(--s{})\"></i>", colour % kColours);
}

Html meter(double share) {
  if (!std::isfinite(share)) return html("–");
  return html("<span class=\"share\"><span><i style=\"width:{:.0f}%\"></i></span>{}</span>",
              100 * std::clamp(share, 0.0, 1.0), percent(share));
}

}  // namespace stem
