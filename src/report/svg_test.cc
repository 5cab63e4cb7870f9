#include "report/svg.h"

#include <gtest/gtest.h>

#include <cmath>

#include "report/page.h"
#include "report/page_check.h"
#include "report/swap_diagram.h"

namespace stem {
namespace {

bool has(const Html& html, std::string_view part) {
  return html.text.find(part) != std::string::npos;
}

TEST(Html, EscapesWhatCouldBeMarkup) {
  EXPECT_EQ(escape("<script>alert(\"1\" & '2')</script>").text,
            "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;");
  EXPECT_EQ(escape("a\x01\x7F"
                   "b")
                .text,
            "a\uFFFD\uFFFDb");
  EXPECT_EQ(escape("\xff\xc3(é😀\xed\xa0\x80").text, "\uFFFD\uFFFD(é😀\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(html("<b>{}</b>{}{}", "<", std::string("&"), Html{"<i>"}).text, "<b>&lt;</b>&amp;<i>");
  EXPECT_EQ(token_chip(" <b>").text, "<code class=\"token\"><i>·</i>&lt;b&gt;</code>");
}

TEST(Html, Numbers) {
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(-999), "−999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(NAN), "–");
  EXPECT_EQ(percent(0.9825), "98.2\u00A0%");
  EXPECT_EQ(percent(INFINITY), "–");
  EXPECT_EQ(fixed(1.23456, 2), "1.23");
  EXPECT_EQ(byte_size(1'600'000), "1.6\u00A0MB");
  EXPECT_EQ(byte_size(512), "512\u00A0bytes");
  EXPECT_EQ(scaled(39'000'000), "39.0\u00A0M");
  EXPECT_EQ(scaled(999), "999");
  EXPECT_EQ(scaled(999.6), "1.00\u00A0k");
  EXPECT_EQ(scaled(4.79e13), "47.9\u00A0T");
  EXPECT_EQ(scaled(-1e30), "−1000000000000\u00A0E");
  EXPECT_EQ(scaled(NAN), "–");
  EXPECT_EQ(duration(102), "1 min 42 s");
  EXPECT_EQ(duration(59.97), "1 min 0 s");
  EXPECT_EQ(duration(-1), "–");
  EXPECT_EQ(shortened("éééé", 3), "éé…");
  EXPECT_EQ(shortened("ééé", 3), "ééé");
}

TEST(Svg, TicksAreRoundAndInside) {
  EXPECT_EQ(nice_ticks(0, 1, 5), (std::vector<double>{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1}));
  EXPECT_EQ(nice_ticks(-3, 7, 5), (std::vector<double>{-2, 0, 2, 4, 6}));
  EXPECT_EQ(nice_ticks(0.3, 8, 5, true), (std::vector<double>{0.5, 1, 2, 5}));
  EXPECT_EQ(nice_ticks(1, 100000, 5, true).size(), 6u);
  EXPECT_TRUE(nice_ticks(0, NAN, 5).empty());
  EXPECT_TRUE(nice_ticks(1, 1, 5).empty());
  EXPECT_TRUE(nice_ticks(-1, 1, 5, true).empty());
  for (const double low : {-1e29, 0.0, 1e-20, 3.7}) {
    EXPECT_LE(nice_ticks(low, 1e29, 5).size(), 13u);
    EXPECT_LE(nice_ticks(std::max(low, 1e-29), 1e29, 5, true).size(), 60u);
  }
}

TEST(Svg, LinesBreakAtWhatIsNotANumber) {
  const Html chart = line_chart({"x", "y", {{"a", {0, 1, 2, 3, 4}, {1, 2, NAN, 3, 4}}}}, 678);
  const std::size_t path =
      chart.text.find("class=\"line0\"/>", chart.text.find("<path d=\"M", chart.text.find(">y<")));
  const std::size_t start = chart.text.rfind("<path", path);
  const std::string line = chart.text.substr(start, path - start);
  EXPECT_EQ(std::count(line.begin(), line.end(), 'M'), 2) << line;
  EXPECT_EQ(std::count(line.begin(), line.end(), 'L'), 2) << line;
  EXPECT_FALSE(has(chart, "nan"));
}

TEST(Svg, NothingToShowSaysSo) {
  EXPECT_TRUE(has(line_chart({"x", "y", {}}, 300), "no data"));
  EXPECT_TRUE(has(line_chart({"x", "y", {{"a", {}, {}}}}, 300), "no data"));
  EXPECT_TRUE(has(line_chart({"x", "y", {{"a", {1}, {NAN}}}}, 300), "no data"));
  EXPECT_TRUE(has(line_chart({"x", "y", {{"a", {1}, {-1}}}, true}, 300), "no data"));
  EXPECT_TRUE(has(histogram({}, 300), "no data"));
  EXPECT_TRUE(has(histogram({{1, 0}, {{"a", {1}}}, "x", "y"}, 300), "no data"));
  EXPECT_TRUE(has(histogram({{0, NAN}, {{"a", {1}}}, "x", "y"}, 300), "no data"));
  EXPECT_TRUE(has(bar_chart({}, 300), "no data"));
  EXPECT_TRUE(has(bar_chart({{{"a", NAN, ""}}}, 300), "no data"));
}

TEST(Svg, OddValuesStayInThePicture) {
  const std::vector<Html> charts = {
      line_chart({"x", "y", {{"flat", {5, 5}, {3, 3}}, {"huge", {1, 2}, {1e300, -1e300}}}}, 336),
      line_chart({"x", "y", {{"one", {5}, {0}}}}, 336),
      line_chart({"x", "y", {{"log", {1, 2, 3}, {0, 1e-300, 5}}}, true}, 336),
      line_chart({"x", "y", {{"shorter", {1, 2, 3}, {4}}}}, 336),
      histogram({{0, 1, 2}, {{"a", {INFINITY, 0.5, 7}}, {"b", {}}, {"c", {-1}}}, "x", "y"}, 336),
      bar_chart({{{"<b>", 2, "\"2\""}, {"b", INFINITY, "&"}, {"c", -4, "x"}}}, 336),
      swap_diagram({}, 336),
      swap_diagram(
          {{"<script>", "b"}, {1}, 99, "&", {"<", ">", "\"", "'"}, {1}, {{"<i>", NAN}}, {{"", -3}, {"b", 7}}},
          678),
      swap_diagram({std::vector<std::string>(1000, " token"),
                    {},
                    990,
                    " token",
                    {},
                    std::vector<std::int64_t>(100, 1),
                    {},
                    {}},
                   336)};
  for (const Html& chart : charts) {
    EXPECT_EQ(markup_fault(chart.text), "");
    for (const char* bad : {"nan", "inf", "NaN", "<script", "e+", "width=\"-"})
      EXPECT_FALSE(has(chart, bad)) << bad << "\n" << chart.text;
  }
  EXPECT_LT(charts.back().text.size(), 30'000u);
}

TEST(Svg, NamesStandAtTheLinesEndsAndDoNotCover) {
  LineChart chart{
      "x", "y", {{"one", {0, 1}, {1, 2.00}}, {"two", {0, 1}, {1, 2.01}}, {"<3>", {0, 1}, {1, 5}}}};
  chart.names_at_ends = true;
  chart.series[0].marks.push_back({0.5, 4.0, "a \"mark\""});
  const Html wide = line_chart(chart, 678), narrow = line_chart(chart, 336);
  for (const Html& drawn : {wide, narrow}) EXPECT_EQ(markup_fault(drawn.text), "");
  EXPECT_TRUE(has(wide, "class=\"text2\">&lt;3&gt;") || has(wide, "class=\"text0\">&lt;3&gt;"));
  EXPECT_TRUE(has(wide, "<title>a &quot;mark&quot;</title>"));
  EXPECT_FALSE(has(narrow, "class=\"text0\""));  // a legend there
  const auto y_of = [&](std::string_view name) {
    const std::size_t end = wide.text.find(fmt::format(">{}</text>", name));
    return std::stod(wide.text.substr(wide.text.rfind(" y=\"", end) + 4));
  };
  EXPECT_GE(y_of("one") - y_of("two"), 13.9);
}

TEST(Svg, Intervals) {
  IntervalChart chart;
  chart.x_label = "difference";
  chart.reference_name = "dense";
  chart.lines = {{"third", -0.1, -0.2, 0.0, {-0.15, -0.05}, "−0.1", 1},
                 {"<one>", 0.2, NAN, NAN, {0.2}, "\"", 12},
                 {"none", NAN, NAN, NAN, {}, "–", 2}};
  for (const double width : {678.0, 336.0}) {
    const Html drawn = interval_chart(chart, width);
    EXPECT_EQ(markup_fault(drawn.text), "");
    EXPECT_FALSE(has(drawn, "nan"));
    EXPECT_TRUE(has(drawn, "class=\"line1\""));
    EXPECT_TRUE(has(drawn, "class=\"fill2\"/>"));  // colours begin again
    EXPECT_TRUE(has(drawn, ">dense</text>"));
  }
  EXPECT_TRUE(has(interval_chart({}, 336), "no data"));
}

TEST(Svg, LongSeriesAreThinnedButKeepTheirSpikes) {
  Series series{"long", {}, {}};
  for (int i = 0; i < 100'000; ++i) series.x.push_back(i), series.y.push_back(i == 77'777 ? 9 : 1);
  const Html chart = line_chart({"x", "y", {series}}, 678);
  EXPECT_LT(chart.text.size(), 60'000u);
  series.y[77'777] = 1;
  EXPECT_FALSE(has(line_chart({"x", "y", {series}}, 678), ">8</text>"));
  EXPECT_TRUE(has(chart, ">8</text>"));
  const Series mean = averaged(series, 100);
  EXPECT_EQ(mean.y.size(), 100u);
  EXPECT_DOUBLE_EQ(mean.x[0], 499.5);
  EXPECT_TRUE(averaged({"e", {}, {}}, 10).y.empty());
}

TEST(Page, EveryPartIsWellFormed) {
  Page page("a <title> & more", "'sub' \"title\"");
  page.tiles({{"<n>", html("{}", "<v>")}});
  page.section("one", "<One>");
  page.paragraph(html("{}", "</p><script>"));
  page.note(html("x"));
  page.facts({{"&", html("1")}});
  page.table({{"<c>", true}, {"d"}}, {{html("1")}, {html("1"), html("2"), html("3")}});
  page.folded_table("<t>", {{"a"}}, {{html("b")}});
  page.compare("<a>", html("b"), "c", html("d"));
  page.figure(
      [](double width) {
        return line_chart({"<x>", "&", {{"<n>", {1, 2}, {1, 2}}}}, width);
      },
      html("c"));
  page.figures({{html("t"), [](double width) { return bar_chart({{{"a", 1, "b"}}}, width); }}}, html("c"));
  page.section("two", "Two");
  const std::string text = page.finish();
  EXPECT_EQ(markup_fault(text), "");
  EXPECT_EQ(outside_reference(text), "");
  EXPECT_NE(text.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_EQ(markup_fault(Page("t", "s").finish()), "");
}

TEST(Page, TheCheckSeesFaults) {
  for (const char* bad :
       {"<p>", "<p></b>", "</p>", "<p a=\"x></p>", "a & b", "a > b", "<", "<p><b></p></b>", "< p>"}) {
    EXPECT_NE(markup_fault(bad), "") << bad;
  }
  EXPECT_EQ(markup_fault("<!DOCTYPE html><p class=\"a>b\">x &amp; y<br/></p>"), "");
  EXPECT_NE(outside_reference("<img src=\"x\"/>"), "");
}

}  // namespace
}  // namespace stem
