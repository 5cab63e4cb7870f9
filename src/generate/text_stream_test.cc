#include "generate/text_stream.h"

#include <gtest/gtest.h>

#include "core/rng.h"
#include "generate/tiny_model.h"
#include "text/utf8.h"

namespace stem {
namespace {

struct Streamed {
  std::string text;
  bool stopped = false;
  std::vector<std::string> pieces;
};

Streamed streamed(const std::vector<std::int32_t>& ids, const std::vector<std::string>& stops) {
  const Tokenizer tokenizer = tiny_tokenizer();
  TextStream stream(tokenizer, stops, true, true);
  Streamed s;
  for (const std::int32_t id : ids) {
    s.pieces.push_back(stream.push(id));
    s.text += s.pieces.back();
    if (stream.stopped()) break;
  }
  s.stopped = stream.stopped();
  s.text += stream.finish();
  return s;
}

TEST(TextStream, AStopStringMayBeCutIntoTokens) {
  const Tokenizer t = tiny_tokenizer();
  const Streamed s = streamed(t.encode("in the hen END."), {"END", "xyz"});
  EXPECT_TRUE(s.stopped);
  EXPECT_EQ(s.text, "in the hen ");
  const Streamed inside = streamed(t.encode("in the hen"), {"eh"});
  EXPECT_FALSE(inside.stopped);
  EXPECT_EQ(inside.text, "in the hen");
  const Streamed token = streamed(t.encode("in the hen"), {"th"});  // " t" + "he"
  EXPECT_TRUE(token.stopped);
  EXPECT_EQ(token.text, "in ");
}

TEST(TextStream, WhatMayBecomeAStopStringIsHeldBack) {
  const Streamed s = streamed(tiny_tokenizer().encode("aENxEN"), {"END"});
  EXPECT_EQ(s.pieces, (std::vector<std::string>{"a", "", "", "ENx", "", ""}));
  EXPECT_EQ(s.text, "aENxEN");
}

TEST(TextStream, NoPieceHoldsHalfACharacter) {
  const std::string text = "aé€😀b";
  const Streamed s = streamed(tiny_tokenizer().encode(text), {"zz"});
  EXPECT_EQ(s.text, text);
  for (const std::string& piece : s.pieces) EXPECT_EQ(utf8_valid_prefix(piece), piece.size());
  EXPECT_EQ(streamed(tiny_tokenizer().encode(text), {"\xE2\x82\xAC"}).text, "aé");
}

TEST(TextStream, RandomTextsAgreeWithASearchInTheWhole) {
  const Tokenizer t = tiny_tokenizer();
  Rng rng(5, 1);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 20; ++i) text += "abé"[rng.below(4)];
    std::vector<std::string> stops;
    for (int i = 0; i < 3; ++i) {
      std::string stop;
      for (std::uint64_t n = 1 + rng.below(4); n > 0; --n) stop += "ab"[rng.below(2)];
      stops.push_back(stop);
    }
    const std::string shown = t.decode(t.encode(text), true, true);
    std::size_t end = std::string::npos, begin = shown.size();
    for (const std::string& stop : stops) {
      const std::size_t at = shown.find(stop);
      if (at == std::string::npos) continue;
      if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
        end = at + stop.size();
        begin = at;
      }
    }
    const Streamed s = streamed(t.encode(text), stops);
    EXPECT_EQ(s.text, shown.substr(0, begin)) << text;
    EXPECT_EQ(s.stopped, end != std::string::npos);
  }
}

}  // namespace
}  // namespace stem
