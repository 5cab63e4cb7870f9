#include "generate/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace stem {
namespace {

std::vector<float> random_logits(std::uint64_t seed, std::size_t count, double spread = 3.0) {
  Rng rng(seed, 9);
  std::vector<float> logits;
  for (std::size_t i = 0; i < count; ++i) logits.push_back(static_cast<float>(spread * rng.normal()));
  return logits;
}

// The definition: rank, cut after top_k, after top_p of what is left, before min_p of the likeliest.
std::vector<double> defined(const std::vector<float>& logits, const SamplingOptions& o) {
  std::vector<double> p(logits.size());
  const double best = *std::max_element(logits.begin(), logits.end());
  for (std::size_t i = 0; i < p.size(); ++i)
    p[i] = std::exp((static_cast<double>(logits[i]) - best) / o.temperature);
  std::vector<std::size_t> rank(p.size());
  std::iota(rank.begin(), rank.end(), 0u);
  std::stable_sort(rank.begin(), rank.end(), [&](auto a, auto b) { return p[a] > p[b]; });
  if (o.top_k > 0 && static_cast<std::size_t>(o.top_k) < rank.size())
    rank.resize(static_cast<std::size_t>(o.top_k));
  double total = 0.0, sum = 0.0;
  for (const auto i : rank) total += p[i];
  std::vector<double> kept(p.size(), 0.0);
  double kept_total = 0.0;
  for (const auto i : rank) {
    if ((sum > 0 && o.top_p < 1.0 && sum >= o.top_p * total) || p[i] < o.min_p) break;
    kept[i] = p[i];
    sum += p[i];
    kept_total += p[i];
  }
  for (double& k : kept) k /= kept_total;
  return kept;
}

TEST(Sampler, FollowsItsDefinitionUnderEveryCut) {
  const std::vector<float> logits = random_logits(1, 40, 1.5);
  int cases = 0;
  for (const std::int64_t k : {0, 1, 3, 12, 40, 100}) {
    for (const double p : {1.0, 0.9, 0.5, 0.01}) {
      for (const double m : {0.0, 0.05, 0.4, 1.0}) {
        SamplingOptions o;
        o.temperature = 0.8;
        o.top_k = k;
        o.top_p = p;
        o.min_p = m;
        const std::vector<double> want = defined(logits, o);
        Sampler sampler(o);
        std::vector<double> got(logits.size(), 0.0);
        constexpr int kDraws = 3000;
        for (std::uint64_t i = 0; i < kDraws; ++i)
          got[static_cast<std::size_t>(sampler.choose(logits, i))] += 1.0 / kDraws;
        for (std::size_t i = 0; i < want.size(); ++i) {
          EXPECT_NEAR(got[i], want[i], 0.05) << k << " " << p << " " << m << " token " << i;
          if (want[i] == 0.0) {
            EXPECT_EQ(got[i], 0.0) << k << " " << p << " " << m << " token " << i;
          }
        }
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 96);
}

// Of equals the lower ids come first, so the cut can be told from the draws.
TEST(Sampler, CutsFlatDistributionsOfManyTokens) {
  constexpr std::size_t kVocab = 30'000;
  SamplingOptions o;
  o.temperature = 1.0;
  o.top_p = 0.5;
  const auto draws = [&](const std::vector<float>& logits) {
    Sampler sampler(o);
    std::vector<std::int32_t> drawn;
    for (std::uint64_t i = 0; i < 300; ++i) drawn.push_back(sampler.choose(logits, i));
    std::sort(drawn.begin(), drawn.end());
    return drawn;
  };
  const std::vector<std::int32_t> equal = draws(std::vector<float>(kVocab, 1.5f));
  EXPECT_LT(equal.back(), 15'000);
  EXPECT_GT(equal.back(), 14'500);
  EXPECT_LT(equal.front(), 500);
  const std::vector<float> nearly = random_logits(3, kVocab, 0.1);
  const std::vector<double> want = defined(nearly, o);
  for (const std::int32_t t : draws(nearly)) EXPECT_GT(want[static_cast<std::size_t>(t)], 0.0) << t;
}

TEST(Sampler, ADrawDependsOnSeedStreamAndPositionAlone) {
  const std::vector<float> logits = random_logits(2, 1000);
  SamplingOptions o;
  o.temperature = 1.3;
  o.seed = 5;
  Sampler a(o), b(o);
  std::vector<std::int32_t> forward, backward;
  for (std::uint64_t i = 0; i < 50; ++i) forward.push_back(a.choose(logits, i));
  for (std::uint64_t i = 50; i-- > 0;) backward.insert(backward.begin(), b.choose(logits, i));
  EXPECT_EQ(forward, backward);
  o.stream = 1;
  Sampler other(o);
  o.stream = 0;
  o.seed = 6;
  Sampler reseeded(o);
  std::vector<std::int32_t> of_stream, of_seed;
  for (std::uint64_t i = 0; i < 50; ++i) {
    of_stream.push_back(other.choose(logits, i));
    of_seed.push_back(reseeded.choose(logits, i));
  }
  EXPECT_NE(of_stream, forward);
  EXPECT_NE(of_seed, forward);
}

TEST(Sampler, PenaltiesCountPromptAndAnswer) {
  SamplingOptions o;
  o.repetition_penalty = 2.0;
  Sampler repetition(o);
  repetition.see_prompt(std::vector<std::int32_t>{1, 2});
  EXPECT_EQ(repetition.choose(std::vector<float>{1.5f, 2.0f, -1.0f}, 0), 0);    // 1.5, 1, -2
  EXPECT_EQ(repetition.choose(std::vector<float>{-3.0f, -1.0f, -1.6f}, 0), 1);  // -3, -2, -3.2
  o.repetition_penalty = 1.0;
  o.presence_penalty = 0.5;
  o.frequency_penalty = 0.25;
  Sampler counted(o);
  counted.see_prompt(std::vector<std::int32_t>{1});
  const std::vector<float> logits{1.0f, 1.9f};
  EXPECT_EQ(counted.choose(logits, 0), 1);  // the prompt does not count
  counted.accept(1);
  EXPECT_EQ(counted.choose(logits, 1), 1);  // 1.9 − 0.75
  counted.accept(1);
  EXPECT_EQ(counted.choose(logits, 2), 0);  // 1.9 − 1.0
}

TEST(Sampler, BiasAndMask) {
  SamplingOptions o;
  o.logit_bias = {{2, 5.0f}};
  Sampler biased(o);
  const std::vector<float> logits{1.0f, 3.0f, 0.0f};
  EXPECT_EQ(biased.choose(logits, 0), 2);
  const std::vector<std::uint64_t> mask{0b011};
  EXPECT_EQ(biased.choose(logits, 0, mask), 1);
  o.temperature = 50.0;
  Sampler hot(o);
  for (std::uint64_t i = 0; i < 200; ++i) EXPECT_NE(hot.choose(logits, i, mask), 2);
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const auto told = [](auto set) -> std::string {
    SamplingOptions o;
    set(o);
    try {
      check_sampling(o, 10);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(told([](auto&) {}), "no error");
  EXPECT_EQ(told([](auto& o) { o.top_p = 0.0; }), "top_p: expected a number in (0, 1], found 0");
  EXPECT_EQ(told([](auto& o) { o.temperature = std::nan(""); }),
            "temperature: expected a number in [0, 100], found nan");
  EXPECT_EQ(told([](auto& o) { o.top_k = -1; }), "top_k: expected 0 (all) or more, found -1");
  EXPECT_EQ(told([](auto& o) {
              o.logit_bias = {{10, 1.0f}};
            }),
            "logit_bias: expected token ids in [0, 10), found 10");
  EXPECT_NE(told([](auto& o) { o.min_p = 2; }).find("min_p"), std::string::npos);
  EXPECT_NE(told([](auto& o) { o.repetition_penalty = 0; }).find("repetition_penalty"), std::string::npos);
}

TEST(Sample, GreedyTakesTheLowestIdOnTies) {
  const std::vector<float> logits{1.0f, 3.0f, 3.0f, 2.0f};
  EXPECT_EQ(sample(logits, {}, 0), 1);
}

TEST(Sample, FollowsTheSoftmaxAtATemperature) {
  const std::vector<float> logits{0.0f, std::log(2.0f), std::log(5.0f)};
  const auto shares = [&](double temperature) {
    SamplingOptions options;
    options.temperature = temperature;
    std::vector<double> count(3, 0.0);
    for (std::uint64_t i = 0; i < 20000; ++i)
      count[static_cast<std::size_t>(sample(logits, options, i))] += 1.0 / 20000;
    return count;
  };
  const auto one = shares(1.0), hot = shares(100.0), cold = shares(0.05);
  EXPECT_NEAR(one[0], 0.125, 0.01);
  EXPECT_NEAR(one[1], 0.25, 0.012);
  EXPECT_NEAR(one[2], 0.625, 0.012);
  EXPECT_NEAR(hot[0], 1.0 / 3, 0.015);
  EXPECT_GT(cold[2], 0.999);
}

TEST(Sample, HugeLogitsDoNotOverflow) {
  const std::vector<float> logits{-3e38f, 3e38f, 0.0f};
  SamplingOptions options;
  options.temperature = 0.01;
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(sample(logits, options, i), 1);
}

TEST(Sample, LogitsThatAreNoNumbersStillGiveAToken) {
  const std::vector<float> logits(7, std::nanf(""));
  SamplingOptions options;
  EXPECT_EQ(sample(logits, options, 0), 0);
  options.temperature = 1.0;
  options.top_p = 0.5;
  const std::int32_t token = sample(logits, options, 3);
  EXPECT_TRUE(token >= 0 && token < 7);
}

TEST(Scores, AreLogProbabilities) {
  const std::vector<float> logits = random_logits(4, 1001, 4.0);
  double total = 0.0;
  for (const float l : logits) total += std::exp(static_cast<double>(l));
  const double log_total = log_sum_exp(logits);
  EXPECT_NEAR(log_total, std::log(total), 1e-6);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  const auto top = top_scores(logits, log_total, 20);
  ASSERT_EQ(top.size(), 20u);
  for (std::size_t i = 0; i < top.size(); ++i) {
    EXPECT_EQ(top[i].token, order[i]);
    EXPECT_NEAR(top[i].log_probability,
                static_cast<double>(logits[static_cast<std::size_t>(order[i])]) - std::log(total), 1e-6);
  }
  EXPECT_TRUE(top_scores(logits, log_total, 0).empty());
}

TEST(TopCandidates, AreProbabilitiesInDescendingOrder) {
  const std::vector<float> logits{0.0f, std::log(3.0f), std::log(3.0f), std::log(1.0f)};
  const auto top = top_candidates(logits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].token, 1);
  EXPECT_EQ(top[1].token, 2);
  EXPECT_EQ(top[2].token, 0);
  EXPECT_NEAR(top[0].probability, 3.0 / 8, 1e-6);
  EXPECT_EQ(top_candidates(logits, 10).size(), 4u);
}

}  // namespace
}  // namespace stem
