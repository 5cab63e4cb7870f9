#include "data/csv.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/rng.h"

namespace stem {
namespace {

using Fields = std::vector<std::string>;

std::vector<CsvRecord> all(std::string_view text) {
  CsvReader reader(text, "x.csv");
  std::vector<CsvRecord> records;
  while (auto record = reader.next()) records.push_back(std::move(*record));
  return records;
}

std::string fault(std::string_view text) {
  try {
    all(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kFormat);
    return e.what();
  }
  return "none";
}

TEST(Csv, FieldsLinesAndQuotes) {
  const auto records =
      all("\xEF\xBB\xBF"
          "a,b,,\r\n\n\"x, \"\"y\"\"\nz\",2\r\nlast,\"q\"");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].fields, (Fields{"a", "b", "", ""}));
  EXPECT_EQ(records[1].fields, (Fields{"x, \"y\"\nz", "2"}));
  EXPECT_EQ(records[2].fields, (Fields{"last", "q"}));
  EXPECT_EQ(records[0].line, 1);
  EXPECT_EQ(records[1].line, 3);
  EXPECT_EQ(records[2].line, 5);
}

TEST(Csv, AQuoteInsideAPlainFieldStandsForItself) {
  EXPECT_EQ(all("5\" pipe,b\n")[0].fields, (Fields{"5\" pipe", "b"}));
}

TEST(Csv, NothingGivesNoRecord) {
  EXPECT_TRUE(all("").empty());
  EXPECT_TRUE(all("\r\n\n").empty());
}

TEST(Csv, FaultsNameTheLine) {
  EXPECT_EQ(fault("a\nb,\"c\nd"),
            "x.csv: line 2: expected a closing double quote, found the end of the file");
  EXPECT_EQ(fault("a,\"b\"c\n"),
            "x.csv: line 1: field 2: expected a comma or the line's end behind the quotes");
  EXPECT_EQ(fault(std::string(5000, ',')), "x.csv: line 1: expected at most 4096 fields, found more");
}

TEST(Csv, WhatIsWrittenComesBack) {
  Rng rng(3, 0);
  const std::string_view alphabet = "a,\"\n\r x";
  for (int round = 0; round < 200; ++round) {
    std::vector<Fields> table(1 + rng.below(4), Fields(2));
    std::string text;
    for (Fields& row : table) {
      for (std::size_t i = 0; i < row.size(); ++i) {
        for (std::uint64_t n = rng.below(6); n > 0; --n) row[i] += alphabet[rng.below(alphabet.size())];
        text += i == 0 ? "\"" : ",\"";
        for (const char c : row[i]) text += c == '"' ? std::string("\"\"") : std::string(1, c);
        text += '"';
      }
      text += rng.below(2) == 0 ? "\n" : "\r\n";
    }
    const auto back = all(text);
    ASSERT_EQ(back.size(), table.size());
    for (std::size_t i = 0; i < table.size(); ++i) EXPECT_EQ(back[i].fields, table[i]);
  }
}

}  // namespace
}  // namespace stem
