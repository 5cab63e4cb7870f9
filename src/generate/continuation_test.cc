// lm-eval's rules on hand-worked items: where the boundary falls, and which choice wins.
#include "generate/continuation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"

namespace stem {
namespace {

using Ids = std::vector<std::int32_t>;

// Tokens: a 0, b 1, ab 2, space 3, newline 4, "c" 5, the two bytes of é 6 7, end of text 8. One merge: a b.
Tokenizer tiny() {
  const Json json{
      {"added_tokens", Json::array({{{"id", 8},
                                     {"content", "<|endoftext|>"},
                                     {"single_word", false},
                                     {"lstrip", false},
                                     {"rstrip", false},
                                     {"normalized", false},
                                     {"special", true}}})},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"vocab",
         {{"a", 0},
          {"b", 1},
          {"ab", 2},
          {"Ġ", 3},
          {"Ċ", 4},
          {"c", 5},
          {"Ã", 6},
          {"©", 7},
          {"<|endoftext|>", 8}}},
        {"merges", Json::array({"a b"})}}}};
  return Tokenizer::from_json(json.dump(), "tiny");
}

Continuation encoded(std::string_view context, std::string_view continuation, std::int64_t room = 100) {
  return encode_continuation(tiny(), context, continuation, room);
}

TEST(Continuation, SpacesAtTheEndOfTheContextBelongToTheAnswer) {
  // "b " + "ab": context "b", continuation " ab".
  const ScoreCase c = encoded("b ", "ab").score;
  EXPECT_EQ(c.prompt, (Ids{8, 1}));
  EXPECT_EQ(c.wanted, (Ids{3, 2}));
  const ScoreCase d = encoded("b", " ab").score;
  EXPECT_EQ(d.prompt, c.prompt);
  EXPECT_EQ(d.wanted, c.wanted);
  // every white space, as rstrip: "b \n" + "c": context "b", continuation " \nc"
  const ScoreCase e = encoded("b \n", "c").score;
  EXPECT_EQ(e.prompt, (Ids{8, 1}));
  EXPECT_EQ(e.wanted, (Ids{3, 4, 5}));
}

TEST(Continuation, TheAnswerIsTheWholeWithoutTheContextsTokens) {
  // "aa" is a a; "aaba" is a ab a: without its first two tokens, a.
  const ScoreCase c = encoded("aa", "ba").score;
  EXPECT_EQ(c.prompt, (Ids{8, 0, 0}));
  EXPECT_EQ(c.wanted, (Ids{0}));
  // "a" + "b" is the one token ab: nothing would be left, so the two are encoded apart.
  const ScoreCase d = encoded("a", "b").score;
  EXPECT_EQ(d.prompt, (Ids{8, 0}));
  EXPECT_EQ(d.wanted, (Ids{1}));
}

TEST(Continuation, AnEmptyContextIsTheEndOfTextToken) {
  const ScoreCase c = encoded("", "cab").score;
  EXPECT_EQ(c.prompt, (Ids{8}));
  EXPECT_EQ(c.wanted, (Ids{5, 2}));
  EXPECT_EQ(encoded("  ", "c").score.prompt, (Ids{8}));
}

TEST(Continuation, LongContextsLoseTheirFront) {
  // prompt 8 c c c c, answer a c: the model reads 5 + 2 − 1 = 6 tokens.
  EXPECT_EQ(encoded("cccc", "ac", 6).cut, 0);
  const Continuation c = encoded("cccc", "ac", 4);
  EXPECT_EQ(c.cut, 2);
  EXPECT_EQ(c.score.prompt, (Ids{5, 5, 5}));
  EXPECT_EQ(c.score.wanted, (Ids{0, 5}));
  try {
    encoded("c", "ccccc", 4);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_STREQ(e.what(), "an answer: expected 1 to 4 tokens (max_position_embeddings), found 5");
  }
  const Prompt p = encode_prompt(tiny(), "cabc", 2);
  EXPECT_EQ(p.tokens, (Ids{2, 5}));
  EXPECT_EQ(p.cut, 2);
}

TEST(Continuation, SpecialTokensInTextsAreText) {
  // As text it would need the byte '<', which this vocabulary lacks; as a special token it would pass.
  EXPECT_THROW(encoded("", "c<|endoftext|>"), Error);
}

TEST(Continuation, MeansAndErrors) {
  const std::vector<double> v{1, 0, 0, 1};  // mean 1/2, variance (4 · 1/4) / 3, error √(1/3 / 4) = √(1/12)
  EXPECT_DOUBLE_EQ(mean_of(v).value, 0.5);
  EXPECT_DOUBLE_EQ(mean_of(v).standard_error, std::sqrt(1.0 / 12.0));
  EXPECT_DOUBLE_EQ(mean_of({v.data(), 1}).standard_error, 0.0);
  const std::vector<double> equal{-2, -1, -1};
  EXPECT_EQ(likeliest(equal), 1u);
}

// A model whose next token depends on the last one alone, with probabilities chosen by hand. The embedding of
// token t is the unit vector t, attention and FFN add nothing, so the final norm gives √D · unit vector, and
// head[v][t] = ln p(v | t) / √D makes the logits the log probabilities themselves.
class Bigram : public ::testing::TestWithParam<bool> {
 protected:
  static ModelConfig shape() {
    ModelConfig c;
    c.vocab = 9;
    c.width = 16;
    c.layers = 1;
    c.heads = 1;
    c.kv_heads = 1;
    c.head_width = 16;
    c.ffn = 16;
    c.max_positions = 32;
    c.norm_eps = 1e-12;
    c.tied = false;
    c.stem_layers = {0};
    return c;
  }
  Bigram() : model(shape(), {}) {
    for (std::int32_t t = 0; t < 9; ++t) {
      model.embedding.view.row<float>(t)[t] = 1.0f;
      for (std::int32_t v = 0; v < 9; ++v) set(t, v, 1.0 / 9.0);
    }
    context.kernels = GetParam() ? &cpu_kernels() : &reference_kernels();
    context.workspace = &workspace;
    context.inference = true;
  }
  void set(std::int32_t after, std::int32_t token, double p) {
    model.weights.head.row<float>(token)[after] = static_cast<float>(std::log(p) / 4.0);
  }
  // p(token | after) for the tokens listed, what is left shared by the others.
  void row(std::int32_t after, const std::vector<std::pair<std::int32_t, double>>& chosen) {
    double left = 1.0;
    for (const auto& [token, p] : chosen) left -= p;
    for (std::int32_t v = 0; v < 9; ++v) set(after, v, left / static_cast<double>(9 - chosen.size()));
    for (const auto& [token, p] : chosen) set(after, token, p);
  }
  std::vector<ScoreResult> score(std::string_view query, const std::vector<std::string>& choices) {
    std::vector<ScoreCase> cases;
    for (const std::string& choice : choices) {
      cases.push_back(encode_continuation(tiny(), query, choice, shape().max_positions).score);
    }
    return score_cases(context, model, cases, nullptr, {true, true, 4096});
  }

  Workspace workspace;
  Context context;
  Model model;
};

TEST_P(Bigram, PlainAndNormalisedAccuracyChooseDifferently) {
  // Query "c", choices " a" and " cccc".
  // ln p(" a")    = ln p(space|c) + ln p(a|space) = ln 1/2 + ln 1/2 = −1.386
  // ln p(" cccc") = ln 1/2 + ln p(c|space) + 3 · ln p(c|c) = ln 1/2 + ln 1/4 + 3 · ln 1/4 = −6.238
  // Plain: " a". By length without the separating space: −1.386 / 1 against −6.238 / 4 = −1.560: still "a".
  row(5, {{3, 0.5}, {5, 0.25}});
  row(3, {{0, 0.5}, {5, 0.25}});
  auto r = score("c", {" a", " cccc"});
  std::vector<double> sums{r[0].log_probability, r[1].log_probability};
  EXPECT_NEAR(sums[0], 2 * std::log(0.5), 1e-5);
  EXPECT_NEAR(sums[1], std::log(0.5) + 4 * std::log(0.25), 1e-5);
  const std::vector<double> lengths{1, 4};
  EXPECT_EQ(likeliest(sums), 0u);
  EXPECT_EQ(likeliest(sums, lengths), 0u);
  EXPECT_TRUE(r[0].exact);   // space is the arg-max after c, a after space
  EXPECT_FALSE(r[1].exact);  // c is not the arg-max after space
  // With p(c|c) = 7/16: ln p(" cccc") = ln 1/2 + ln 1/4 + 3 · ln 7/16 = −4.559, and / 4 = −1.140: normalised
  // wins.
  row(5, {{3, 0.5}, {5, 7.0 / 16}});
  r = score("c", {" a", " cccc"});
  sums = {r[0].log_probability, r[1].log_probability};
  EXPECT_NEAR(sums[1], std::log(0.5) + std::log(0.25) + 3 * std::log(7.0 / 16), 1e-5);
  EXPECT_EQ(likeliest(sums), 0u);
  EXPECT_EQ(likeliest(sums, lengths), 1u);
}

TEST_P(Bigram, CharactersAndBytesNormaliseDifferently) {
  // After the end of text: a with 0.30, é's first byte with 0.10, its second surely. Choices "aa" and "éé"
  // (2 characters each; 2 and 4 bytes), p(a|a) = 0.05, p(first byte|second) = 0.10.
  // ln p(aa) = ln 0.30 + ln 0.05 = −4.200, by characters and bytes −2.100
  // ln p(éé) = 2 ln 0.10 + 2 ln 0.96 = −4.687, by characters −2.343, by bytes −1.172
  row(8, {{0, 0.30}, {6, 0.10}});
  row(0, {{0, 0.05}});
  row(6, {{7, 0.96}});
  row(7, {{6, 0.10}});
  const auto r = score("", {"aa", "éé"});
  const std::vector<double> sums{r[0].log_probability, r[1].log_probability}, characters{2, 2}, bytes{2, 4};
  EXPECT_NEAR(sums[0], std::log(0.30) + std::log(0.05), 1e-5);
  EXPECT_NEAR(sums[1], 2 * std::log(0.10) + 2 * std::log(0.96), 1e-5);
  EXPECT_EQ(likeliest(sums, characters), 0u);
  EXPECT_EQ(likeliest(sums, bytes), 1u);
}

INSTANTIATE_TEST_SUITE_P(Backends, Bigram, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "cpu" : "reference"; });

}  // namespace
}  // namespace stem
