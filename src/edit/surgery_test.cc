#include "edit/surgery.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "text/bpe_trainer.h"

namespace stem {
namespace {

using Plan = std::vector<std::vector<std::int32_t>>;
using Words = std::vector<std::string>;

Plan plan_of(SpanRule rule, std::size_t slots, const std::vector<std::int32_t>& donors) {
  return donors_of_slots(rule, slots, donors, 99);
}

std::string message(const std::function<void()>& action, ErrorCode code = ErrorCode::kUsage) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  return "no error";
}

TEST(SpanRules, MeetSlotsAndDonors) {
  EXPECT_EQ(plan_of(SpanRule::automatic, 2, {5, 6}), (Plan{{5}, {6}}));
  EXPECT_EQ(plan_of(SpanRule::automatic, 1, {5, 6}), (Plan{{5, 6}}));
  EXPECT_EQ(plan_of(SpanRule::automatic, 2, {5}), (Plan{{5}, {5}}));
  EXPECT_EQ(plan_of(SpanRule::one_to_one, 2, {5, 6}), (Plan{{5}, {6}}));
  EXPECT_EQ(plan_of(SpanRule::average, 2, {5, 6, 7}), (Plan{{5, 6, 7}, {5, 6, 7}}));
  EXPECT_EQ(plan_of(SpanRule::copy, 3, {5, 6}), (Plan{{5}, {6}, {5}}));
  EXPECT_EQ(plan_of(SpanRule::copy, 1, {5, 6}), (Plan{{5}}));
  EXPECT_EQ(plan_of(SpanRule::left_pad, 3, {5, 6}), (Plan{{99}, {5}, {6}}));
  EXPECT_EQ(plan_of(SpanRule::right_pad, 3, {5, 6}), (Plan{{5}, {6}, {99}}));
  EXPECT_EQ(plan_of(SpanRule::subset, 2, {5, 6, 7}), (Plan{{6}, {7}}));
}

TEST(SpanRules, RefuseNumbersThatDoNotFit) {
  EXPECT_EQ(message([] {
              plan_of(SpanRule::one_to_one, 1, {5, 6});
            }),
            "--rule one_to_one: expected as many slot as donor tokens, found 1 slot and 2 donor tokens");
  EXPECT_EQ(message([] {
              plan_of(SpanRule::left_pad, 2, {5, 6});
            }),
            "--rule left_pad: expected more slot than donor tokens, found 2 slot and 2 donor tokens");
  EXPECT_NE(message([] { plan_of(SpanRule::right_pad, 1, {5, 6}); }), "no error");
  EXPECT_EQ(message([] {
              plan_of(SpanRule::subset, 2, {5, 6});
            }),
            "--rule subset: expected fewer slot than donor tokens, found 2 slot and 2 donor tokens");
}

TEST(SpanRules, Names) {
  for (const char* name : {"auto", "one_to_one", "average", "copy", "left_pad", "right_pad", "subset"})
    EXPECT_EQ(name_of(span_rule_from(name)), name);
  EXPECT_EQ(message([] { span_rule_from("mean"); }),
            "--rule: expected one of auto, one_to_one, average, copy, left_pad, right_pad, subset, found "
            "\"mean\"");
}

TEST(Spellings, CaseAndLeadingSpace) {
  EXPECT_EQ(spellings_of("Spain"), (Words{" Spain", "Spain", " spain", "spain", " SPAIN", "SPAIN"}));
  EXPECT_EQ(spellings_of("USA"), (Words{" USA", "USA", " usa", "usa"}));
  EXPECT_EQ(spellings_of(" Spain"), (Words{" Spain"}));
}

// A tokenizer that knows a few names whole, and a table whose row (t, s) is all 10·t + s.
class Swap : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::vector<std::string> names{" Spain", " Germany", " Czech", " Republic", " Turkey"};
    std::string text;
    for (int i = 0; i < 40; ++i) {
      for (const auto& name : names) text += "x" + name + ",";
      text += "\nSpain spain\n";
    }
    BpeTrainerOptions options;
    options.vocab_size = 330;
    const std::vector<std::string_view> views{text};
    tokenizer = new Tokenizer(train_bpe(views, options));
  }
  static void TearDownTestSuite() { delete tokenizer; }

  Swap() : table(Table::in_memory({tokenizer->vocab_size(), 2, 4}, DType::f32)) {
    for (std::int64_t t = 0; t < table.shape().vocab; ++t) {
      for (std::int64_t i = 0; i < 8; ++i)
        table.writable_records().row<float>(t)[i] = static_cast<float>(10 * t + i / 4);
    }
  }
  SwapPlan plan(const SwapRequest& request) const { return plan_swap({table}, *tokenizer, layers, request); }
  std::int32_t id(const std::string& text) const { return tokenizer->token_id(text).value(); }
  static SwapRequest request(const std::string& slot, const Words& donors) {
    SwapRequest r;
    r.slot = slot;
    r.donors = donors;
    return r;
  }
  static float value(std::int32_t token, int layer) { return static_cast<float>(10 * token + layer); }

  static Tokenizer* tokenizer;
  const std::vector<std::int64_t> layers{1, 4};
  Table table;
};
Tokenizer* Swap::tokenizer = nullptr;

TEST_F(Swap, OneExactSpellingReadsTheDonorsRecord) {
  const SwapPlan p = plan(request(" Spain", {"Germany"}));
  ASSERT_EQ(p.rows.size(), 2u);
  for (int s = 0; s < 2; ++s) {
    const OverlayRow& row = p.rows[static_cast<std::size_t>(s)];
    EXPECT_EQ(row.token, id(" Spain"));
    EXPECT_EQ(row.layer, s);
    EXPECT_TRUE(row.trigger.empty());
    EXPECT_FALSE(row.add);
    EXPECT_EQ(row.values, std::vector<float>(4, value(id(" Germany"), s)));
  }
  EXPECT_EQ(p.donor_tokens, std::vector{id(" Germany")});
}

TEST_F(Swap, ANameCoversItsSpellingsAndSaysWhichItLeavesOut) {
  const SwapPlan p = plan(request("Spain", {"Germany"}));
  EXPECT_EQ(p.spellings.front(), " Spain");
  EXPECT_NE(std::find(p.spellings.begin(), p.spellings.end(), "Spain"), p.spellings.end());
  EXPECT_EQ(p.rows.size(), 2 * p.spellings.size());
  bool told = false;
  for (const auto& note : p.notes) told = told || note.find("\" SPAIN\" is ") != std::string::npos;
  EXPECT_TRUE(told);
}

TEST_F(Swap, TwoDonorTokensAreAveraged) {
  for (const Words& donors : {Words{"Czech", "Republic"}, Words{"Czech Republic"}}) {
    const SwapPlan p = plan(request(" Spain", donors));
    const float mean = (value(id(" Czech"), 1) + value(id(" Republic"), 1)) / 2;
    EXPECT_EQ(p.rows[1].values, std::vector<float>(4, mean));
  }
}

TEST_F(Swap, ASlotOfTwoTokensTriggersOnItsFirst) {
  const SwapPlan p = plan(request(" Czech Republic", {"Germany"}));
  ASSERT_EQ(p.rows.size(), 4u);
  EXPECT_EQ(p.rows[0].token, id(" Czech"));
  EXPECT_TRUE(p.rows[0].trigger.empty());
  EXPECT_EQ(p.rows[2].token, id(" Republic"));
  EXPECT_EQ(p.rows[2].trigger, std::vector{id(" Czech")});
  EXPECT_NE(p.notes.front().find("also begins other names"), std::string::npos);
}

TEST_F(Swap, ExchangeGoesBothWays) {
  SwapRequest r = request(" Spain", {"Germany"});
  r.exchange = true;
  const SwapPlan p = plan(r);
  ASSERT_GE(p.rows.size(), 4u);
  EXPECT_EQ(p.rows[0].token, id(" Spain"));
  EXPECT_EQ(p.rows[0].values, std::vector<float>(4, value(id(" Germany"), 0)));
  EXPECT_EQ(p.rows[2].token, id(" Germany"));
  EXPECT_EQ(p.rows[2].values, std::vector<float>(4, value(id(" Spain"), 0)));
}

TEST_F(Swap, ASharedPieceIsOneRowOrRefused) {
  SwapRequest r = request(" Czech Republic", {"Czech Germany"});
  r.exchange = true;
  const SwapPlan p = plan(r);
  ASSERT_EQ(p.rows.size(), 6u);
  EXPECT_EQ(p.rows[0].token, id(" Czech"));
  EXPECT_EQ(p.rows[0].values, std::vector<float>(4, value(id(" Czech"), 0)));
  EXPECT_EQ(p.rows[4].token, id(" Germany"));
  r.rule = SpanRule::average;
  EXPECT_EQ(message([&] { plan(r); }),
            "--donor: expected names of different tokens, found \" Czech\" at the same place in both");
}

TEST_F(Swap, LayersChoose) {
  SwapRequest r = request(" Spain", {"Germany"});
  r.layers = {2, 9};
  const SwapPlan p = plan(r);
  ASSERT_EQ(p.rows.size(), 1u);
  EXPECT_EQ(p.rows[0].layer, 1);  // STEM layer 1 is the model's layer 4
  r.layers = {2, 3};
  EXPECT_EQ(message([&] { plan(r); }),
            "--layers: expected a range that holds one of the STEM layers 1, 4, found 2-3");
}

TEST_F(Swap, OtherSensesAreWarnedOf) {
  const SwapPlan p = plan(request(" Turkey", {"Spain"}));
  EXPECT_EQ(p.notes.back(), "\" Turkey\" has another sense (the bird): it reads the same row");
}

TEST_F(Swap, RefusesWhatCannotBeDone) {
  const std::string unknown = message([&] { plan(request(" Spain", {"Atlantis"})); }, ErrorCode::kNotFound);
  EXPECT_TRUE(unknown.starts_with(
      "--donor: \"Atlantis\" has no row of its own in this model: the tokenizer cuts it into "))
      << unknown;
  EXPECT_NE(message([&] { plan(request(" Spain", {"Germny"})); }, ErrorCode::kNotFound)
                .find("(did you mean \"Germany\"?)"),
            std::string::npos);
  EXPECT_TRUE(message([&] { plan(request("Atlantis", {"Spain"})); }, ErrorCode::kNotFound)
                  .starts_with("--slot: \"Atlantis\""));
  EXPECT_EQ(message([&] { plan(request("Spain", {"Spain"})); }),
            "--donor: expected another token than the slot's, found \"Spain\" for both");
  EXPECT_EQ(message([&] { plan(request("", {"Spain"})); }), "--slot: expected a name, found an empty text");
  EXPECT_EQ(message([&] { plan(request("Spain", {})); }), "--donor: expected at least one name");
  EXPECT_EQ(message([&] {
              plan(request("Spain", {"Germany", ""}));
            }),
            "--donor: expected a name, found an empty text");
  EXPECT_EQ(message([&] { plan_swap({Table()}, *tokenizer, {}, request("Spain", {"Germany"})); }),
            "this model has no STEM table: there are no rows to swap");
}

TEST_F(Swap, PiecesEditNamesThatAreCut) {
  SwapRequest r = request(" Atlantis", {"Spain"});
  r.pieces = true;
  const SwapPlan p = plan(r);
  EXPECT_GT(p.slot_tokens.front().size(), 1u);
  EXPECT_EQ(p.rows.size(), 2 * p.slot_tokens.front().size());
}

}  // namespace
}  // namespace stem
