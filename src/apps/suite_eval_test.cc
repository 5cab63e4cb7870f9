// Suites against a model whose every probability is chosen by hand.
#include "apps/suite_eval.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "data/answer_suite.h"
#include "data/choice_suite.h"
#include "data/last_word.h"
#include "text/bpe_trainer.h"

namespace stem {
namespace {

constexpr std::int64_t kWidth = 272;  // at least the vocabulary, and a multiple of what kernels like

Tokenizer bytes_tokenizer() {
  BpeTrainerOptions options;
  options.vocab_size = 257;  // the bytes and the end-of-text token: no merges
  return train_bpe(std::span<const std::string_view>(), options);
}

// The next token depends on the last one alone. Embeddings are unit vectors and no layer adds anything, so
// the final norm gives √D · unit vector, and head[v][t] = ln p(v | t) / √D makes logits log probabilities.
class SuiteEval : public ::testing::Test {
 protected:
  SuiteEval() : opened{{{}, {}, bytes_tokenizer(), Model(shape(), {}), {}}, {}, {}} {
    for (std::int32_t t = 0; t < 257; ++t) {
      opened.loaded.model.embedding.view.row<float>(t)[t] = 1.0f;
      after_token(t, {});
    }
  }
  static ModelConfig shape() {
    ModelConfig c;
    c.vocab = 257;
    c.width = kWidth;
    c.layers = 1;
    c.heads = 1;
    c.kv_heads = 1;
    c.head_width = 16;
    c.ffn = 16;
    c.max_positions = 256;
    c.norm_eps = 1e-12;
    c.tied = false;
    c.stem_layers = {0};
    return c;
  }
  std::int32_t id(char c) const { return opened.tokenizer().token_id(std::string(1, c)).value(); }
  void after_token(std::int32_t token, const std::vector<std::pair<std::int32_t, double>>& chosen) {
    double left = 1.0;
    for (const auto& [next, p] : chosen) left -= p;
    const auto set = [&](std::int32_t next, double p) {
      opened.loaded.model.weights.head.row<float>(next)[token] =
          static_cast<float>(std::log(p) / std::sqrt(static_cast<double>(kWidth)));
    };
    for (std::int32_t next = 0; next < 257; ++next)
      set(next, left / static_cast<double>(257 - chosen.size()));
    for (const auto& [next, p] : chosen) set(next, p);
  }
  void after(char c, const std::vector<std::pair<char, double>>& chosen) {
    std::vector<std::pair<std::int32_t, double>> ids;
    for (const auto& [next, p] : chosen) ids.emplace_back(id(next), p);
    after_token(id(c), ids);
  }
  static Suite suite_of(SuiteForm form, std::vector<SuiteItem> items) {
    Suite s;
    s.form = form;
    s.query_template = "{query}";
    s.items = std::move(items);
    return s;
  }
  SuiteResult run(const Suite& suite) {
    items.clear();
    SuiteEvalOptions options;
    options.max_new_tokens = 8;
    options.on_item = [&](const Json& item) { items.push_back(item); };
    return evaluate_suite(runtime.inference(), opened, "s", suite, options);
  }
  static double metric(const SuiteFigures& f, const std::string& name) {
    for (const SuiteMetric& m : f.metrics) {
      if (m.name == name) return m.estimate.value;
    }
    ADD_FAILURE() << "no " << name;
    return 0.0;
  }

  Runtime runtime;
  PatchedModel opened;
  std::vector<Json> items;
};

TEST_F(SuiteEval, ChoicesPlainAndNormalised) {
  // After "q": space. ln p(" a") = ln 0.9 + ln 0.25 = −1.492. ln p(" xxxx") = ln 0.9 + ln 0.3 + 3 ln 0.5 =
  // −3.389, a quarter of it −0.847: plain takes "a", normalised "xxxx". Item 1 wants "a", item 2 "xxxx", item
  // 3 "a" of two that are alike: equal scores go to the first.
  after('q', {{' ', 0.9}});
  after(' ', {{'a', 0.25}, {'x', 0.3}});
  after('x', {{'x', 0.5}});
  const auto suite =
      suite_of(SuiteForm::choice, parse_choice_lines(R"({"query": "q", "choices": ["xxxx", "a"], "gold": 1}
{"query": "q", "choices": ["a", "xxxx"], "gold": 1}
{"query": "q", "choices": ["a", "a"], "gold": 0})",
                                                     "c"));
  const SuiteResult r = run(suite);
  EXPECT_EQ(r.all.items, 3);
  EXPECT_DOUBLE_EQ(metric(r.all, "acc"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(metric(r.all, "acc_norm"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(metric(r.all, "acc_bytes"), 2.0 / 3);
  // values 1 0 1: variance (1/9 + 4/9 + 1/9) / 2 = 1/3, error √(1/3 / 3) = 1/3
  EXPECT_DOUBLE_EQ(r.all.metrics[0].estimate.standard_error, 1.0 / 3);
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[0]["chosen"], 1);
  EXPECT_EQ(items[0]["chosen_norm"], 0);
  EXPECT_EQ(items[1]["chosen"], 0);
  EXPECT_EQ(items[1]["chosen_norm"], 1);
  EXPECT_EQ(items[1]["where"], "c: line 2");
  EXPECT_NEAR(items[0]["choices"][0]["log_probability"].get<double>(),
              std::log(0.9) + std::log(0.3) + 3 * std::log(0.5), 1e-5);
  EXPECT_NEAR(items[0]["choices"][1]["log_probability"].get<double>(), std::log(0.9) + std::log(0.25), 1e-5);
  EXPECT_EQ(items[0]["choices"][0]["tokens"], 5);
  EXPECT_EQ(to_json(r)["metrics"]["acc"]["value"], metric(r.all, "acc"));
}

TEST_F(SuiteEval, MmluAveragesOverItemsAndOverSubjects) {
  after(' ', {{'B', 0.5}});
  auto list = parse_mmlu("Q1,a,b,c,d,B\nQ2,a,b,c,d,B\nQ3,a,b,c,d,A\n", "m", "law");
  for (SuiteItem& item : parse_mmlu("Q4,a,b,c,d,B\n", "n", "art")) list.push_back(std::move(item));
  const SuiteResult r = run(suite_of(SuiteForm::mmlu, list));
  EXPECT_DOUBLE_EQ(metric(r.all, "acc"), 3.0 / 4);
  EXPECT_DOUBLE_EQ(metric(r.all, "acc_macro"), (2.0 / 3 + 1.0) / 2);
  ASSERT_EQ(r.subjects.size(), 2u);
  EXPECT_EQ(r.subjects[0].name, "law");
  EXPECT_DOUBLE_EQ(metric(r.subjects[0], "acc"), 2.0 / 3);
  // law 1 1 0: error 1/3; art, one item: 0; of their mean √(1/9) / 2
  EXPECT_DOUBLE_EQ(r.all.metrics[1].estimate.standard_error, 1.0 / 6);
  const std::string table = table_text({&r, 1});
  EXPECT_NE(table.find("s           4  acc             0.7500  ± 0.2500\n"), std::string::npos) << table;
  EXPECT_NE(table.find("  law       3  acc             0.6667  ± 0.3333\n"), std::string::npos) << table;
}

TEST_F(SuiteEval, LastWords) {
  // p(" x") = 1/2 · 8/10 = 0.4 and greedy; p(" y") = 1/2 · 1/10 = 0.05 and not.
  // perplexity exp(−(ln 0.4 + ln 0.05) / 2) = 1 / √0.02
  after('q', {{' ', 0.5}});
  after(' ', {{'x', 0.8}, {'y', 0.1}});
  const SuiteResult r =
      run(suite_of(SuiteForm::last_word, parse_last_word(R"({"context": "q", "continuation": "x"}
{"context": "q", "continuation": "y"})",
                                                         "l")));
  EXPECT_DOUBLE_EQ(metric(r.all, "acc"), 0.5);
  EXPECT_NEAR(metric(r.all, "perplexity"), 1.0 / std::sqrt(0.02), 1e-4);
  // values −ln 0.4, −ln 0.05: half their distance is ln 8 / 2, which is also the error of their mean
  EXPECT_NEAR(r.all.metrics[1].estimate.standard_error, std::log(8.0) / 2 / std::sqrt(0.02), 1e-4);
  EXPECT_EQ(items[1]["greedy"], false);
  EXPECT_EQ(items[1]["greedy_first"], " ");
}

TEST_F(SuiteEval, AnswersAreGeneratedUntilAStop) {
  // ":" -> "7" -> newline -> end of text
  after(':', {{'7', 0.9}});
  after('7', {{'\n', 0.9}});
  after_token(id('\n'), {{opened.tokenizer().eos_id().value(), 0.9}});
  Suite suite = suite_of(SuiteForm::answer, parse_answers(R"({"question": "q", "answer": "#### 7"}
{"question": "r", "answer": "8"})",
                                                          "g"));
  suite.query_template = "{query}:";
  SuiteResult r = run(suite);
  EXPECT_DOUBLE_EQ(metric(r.all, "strict"), 0.0);
  EXPECT_DOUBLE_EQ(metric(r.all, "flexible"), 0.5);
  EXPECT_EQ(items[0]["completion"], "7\n");
  EXPECT_EQ(items[0]["flexible"], "7");
  EXPECT_TRUE(items[0]["strict"].is_null());
  EXPECT_EQ(r.max_new_tokens, 8);
  // ":" -> "#" for ever, until the longest answer
  after(':', {{'#', 0.9}});
  after('#', {{'#', 0.9}});
  r = run(suite);
  EXPECT_EQ(items[0]["completion"], "########");
  // A stop ends the text and is no part of it: "Question:" needs its letters in a row, so stop at </s>.
  after(':', {{'5', 0.9}});
  after('5', {{'<', 0.9}});
  after('<', {{'/', 0.9}});
  after('/', {{'s', 0.9}});
  after('s', {{'>', 0.9}});
  after('>', {{'9', 0.9}});
  r = run(suite);
  EXPECT_EQ(items[0]["completion"], "5");
}

TEST_F(SuiteEval, FiguresDoNotDependOnOrderOrBatches) {
  init_weights(opened.loaded.model, 4);
  Rng rng(2, 0);
  std::string lines;
  for (int i = 0; i < 150; ++i) {
    const auto word = [&] {
      std::string w;
      for (std::uint64_t n = 1 + rng.below(9); n > 0; --n) w += static_cast<char>('a' + rng.below(26));
      return w;
    };
    lines += Json{{"query", "Question: " + word() + " " + word() + "?"},
                  {"choices", {word(), word(), word()}},
                  {"gold", rng.below(3)}}
                 .dump() +
             "\n";
  }
  auto list = parse_choice_lines(lines, "c");
  run(suite_of(SuiteForm::choice, list));
  std::vector<Json> first = items;
  std::reverse(list.begin(), list.end());
  run(suite_of(SuiteForm::choice, list));
  ASSERT_EQ(items.size(), first.size());
  for (std::size_t i = 0; i < first.size(); ++i)
    EXPECT_EQ(first[i]["choices"], items[first.size() - 1 - i]["choices"]) << i;
}

TEST_F(SuiteEval, LongPromptsAreCutAndCounted) {
  std::vector<SuiteItem> list(2);
  list[0].query = std::string(300, 'q');
  list[1].query = "q";
  for (SuiteItem& item : list) item.choices = {"a", "b"};
  const SuiteResult r = run(suite_of(SuiteForm::choice, list));
  EXPECT_EQ(r.cut_items, 1);
  EXPECT_EQ(items[0]["cut_tokens"], 300 + 1 + 2 - 1 - 256);  // end of text, query, " a" but its last
  list[1].choices[1] = std::string(300, 'c');
  list[1].where = "c: line 2";
  try {
    run(suite_of(SuiteForm::choice, list));
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "c: line 2: an answer: expected 1 to 256 tokens (max_position_embeddings), found 301");
  }
}

}  // namespace
}  // namespace stem
