#include "generate/score.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "generate/session.h"
#include "kernels/cpu/cpu.h"

namespace stem {
namespace {

class Scoring : public ::testing::Test {
 protected:
  Scoring() : model(shape(), {}) {
    init_weights(model, 3);
    Rng rng(5, 0);
    for (int i = 0; i < 12; ++i) {
      ScoreCase c;
      c.prompt.resize(1 + rng.below(6));
      for (auto& t : c.prompt) t = static_cast<std::int32_t>(rng.below(50));
      cases.push_back(std::move(c));
    }
  }
  static ModelConfig shape() {
    ModelConfig c;
    c.vocab = 50;
    c.width = 16;
    c.layers = 2;
    c.heads = 2;
    c.kv_heads = 2;
    c.head_width = 8;
    c.ffn = 24;
    c.max_positions = 12;
    c.stem_layers = {0, 1};
    return c;
  }
  std::vector<std::int32_t> greedy(const ScoreCase& c, std::int64_t count, const Overlay* overlay = nullptr) {
    Session session(context, model, overlay);
    GenerateOptions options;
    options.max_tokens = count;
    return generate(session, c.prompt, options);
  }

  static ScoreOptions with_log(std::int64_t tokens_per_batch = 4096) {
    return {true, true, tokens_per_batch};
  }

  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, false};
  Model model;
  std::vector<ScoreCase> cases;
};

TEST_F(Scoring, ExactIsWhatGreedyGenerationGives) {
  for (std::size_t i = 0; i < cases.size(); ++i) {
    cases[i].wanted = greedy(cases[i], 3);
    if (i % 3 == 1) cases[i].wanted[2] = (cases[i].wanted[2] + 1) % 50;  // wrong late
    if (i % 3 == 2) cases[i].wanted[0] = (cases[i].wanted[0] + 1) % 50;  // wrong at once
  }
  const auto results = score_cases(context, model, cases);
  ASSERT_EQ(results.size(), cases.size());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(results[i].exact, i % 3 == 0) << i;
    EXPECT_EQ(results[i].first, greedy(cases[i], 1)[0]) << i;
  }
}

TEST_F(Scoring, BatchesDoNotChangeResults) {
  for (auto& c : cases) c.wanted = {3, 4};
  const auto whole = score_cases(context, model, cases, nullptr, with_log());
  const auto single = score_cases(context, model, cases, nullptr, with_log(1));
  for (std::size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(whole[i].first, single[i].first);
    EXPECT_NEAR(whole[i].log_probability, single[i].log_probability, 1e-4);
    EXPECT_LT(whole[i].log_probability, 0.0);
  }
}

// The choices of one question share its prompt; some differ in their last token alone, one is longer.
std::vector<ScoreCase> questions(Rng& rng) {
  std::vector<ScoreCase> all;
  for (int q = 0; q < 5; ++q) {
    ScoreCase c;
    c.prompt.resize(1 + rng.below(6));
    for (auto& t : c.prompt) t = static_cast<std::int32_t>(rng.below(50));
    const auto any = [&] { return static_cast<std::int32_t>(rng.below(50)); };
    const std::int32_t head = any();
    for (const auto& wanted :
         {std::vector{any()}, {any()}, {head, any()}, {head, any()}, {any(), any(), any()}}) {
      c.wanted = wanted;
      all.push_back(c);
    }
  }
  return all;
}

TEST_F(Scoring, InInferenceSharedPromptsAndBatchesDoNotChangeABit) {
  context.inference = true;
  Rng rng(8, 0);
  const std::vector<ScoreCase> all = questions(rng);
  Overlay overlay;  // with a trigger: rows depend on the tokens before, cached ones included
  overlay.put(model.table, {all[0].wanted[0], 0, {all[0].prompt.back()}, std::vector<float>(24, 2.0f)});
  overlay.put(model.table, {all[0].prompt.front(), 1, {}, std::vector<float>(24, 1.0f)});
  const auto whole = score_cases(context, model, all, &overlay, with_log());
  const auto small = score_cases(context, model, all, &overlay, with_log(17));
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto alone = score_cases(context, model, {&all[i], 1}, &overlay, with_log());
    EXPECT_EQ(whole[i].log_probability, alone[0].log_probability) << i;
    EXPECT_EQ(small[i].log_probability, alone[0].log_probability) << i;
    EXPECT_EQ(whole[i].first, alone[0].first) << i;
    EXPECT_EQ(whole[i].exact, alone[0].exact) << i;
  }
}

TEST_F(Scoring, InferenceAgreesWithSessionsAndTraining) {
  Rng rng(8, 1);
  const std::vector<ScoreCase> all = questions(rng);
  const auto training = score_cases(context, model, all, nullptr, with_log());
  context.inference = true;
  const auto inference = score_cases(context, model, all, nullptr, with_log());
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_NEAR(training[i].log_probability, inference[i].log_probability, 1e-4);
    Session session(context, model);
    std::span<const float> logits = session.feed(all[i].prompt);
    double sum = 0.0;
    for (const std::int32_t token : all[i].wanted) {
      double total = 0.0;
      for (const float l : logits) total += std::exp(static_cast<double>(l));
      sum += static_cast<double>(logits[static_cast<std::size_t>(token)]) - std::log(total);
      logits = session.feed({&token, 1});
    }
    EXPECT_NEAR(inference[i].log_probability, sum, 1e-5) << i;
  }
}

TEST_F(Scoring, LogProbabilitiesOfAllTokensSumToOne) {
  std::vector<ScoreCase> all(50, cases[0]);
  for (std::int32_t t = 0; t < 50; ++t) all[static_cast<std::size_t>(t)].wanted = {t};
  double total = 0.0;
  for (const auto& r : score_cases(context, model, all, nullptr, with_log()))
    total += std::exp(r.log_probability);
  EXPECT_NEAR(total, 1.0, 1e-5);
}

TEST_F(Scoring, AnEditOfOneCaseIsAnOverlayForItAlone) {
  const std::vector<float> record(48, 1.5f);
  ScoreCase& edited = cases[2];
  edited.edits = {{0, record.data()}};
  for (auto& c : cases) c.wanted = {3};
  Overlay overlay;
  const std::int32_t slot = edited.prompt[0];
  for (std::int32_t s = 0; s < 2; ++s) overlay.put(model.table, {slot, s, {}, std::vector<float>(24, 1.5f)});
  const auto with = score_cases(context, model, cases, nullptr, with_log());
  for (auto& c : cases) c.edits.clear();
  const auto without = score_cases(context, model, cases, nullptr, with_log());
  EXPECT_NE(with[2].log_probability, without[2].log_probability);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    if (i == 2) continue;
    EXPECT_EQ(with[i].log_probability, without[i].log_probability) << i;
  }
  if (std::count(edited.prompt.begin(), edited.prompt.end(), slot) == 1) {
    const auto over = score_cases(context, model, std::span(cases).subspan(2, 1), &overlay, with_log());
    EXPECT_NEAR(over[0].log_probability, with[2].log_probability, 1e-4);
  }
}

TEST_F(Scoring, APromptLongerThanTheContextIsRefused) {
  cases[0].prompt.assign(12, 1);
  cases[0].wanted = {1, 2};
  for (auto& c : cases) c.wanted.resize(2, 1);
  try {
    score_cases(context, model, cases);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_STREQ(e.what(),
                 "the context holds 12 tokens (max_position_embeddings), a prompt with its answer needs 13");
  }
}

}  // namespace
}  // namespace stem
