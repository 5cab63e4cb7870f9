#include "generate/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "core/rng.h"
#include "generate/session.h"
#include "generate/tiny_model.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "kernels/cpu/cpu.h"

namespace stem {
namespace {

using Ids = std::vector<std::int32_t>;
using namespace std::chrono_literals;

struct Answer {
  Ids tokens;
  std::vector<double> scores, prompt_scores;
  std::vector<std::vector<TokenScore>> top;
  std::string text, error;
  FinishReason finish = FinishReason::none;
};

std::vector<Answer> collect(Generation& generation) {
  std::vector<Answer> answers(static_cast<std::size_t>(generation.request().choices));
  std::int64_t open = generation.request().choices;
  while (open > 0) {
    const auto event = generation.next(20s);
    if (!event) {
      ADD_FAILURE() << "no event";
      break;
    }
    Answer& a = answers[static_cast<std::size_t>(event->choice)];
    for (const ScoredToken& s : event->prompt) a.prompt_scores.push_back(s.log_probability);
    for (const ScoredToken& s : event->tokens) {
      a.tokens.push_back(s.token);
      a.scores.push_back(s.log_probability);
      a.top.push_back(s.top);
    }
    a.text += event->text;
    a.error += event->error;
    if (event->finish != FinishReason::none) {
      a.finish = event->finish;
      --open;
    }
  }
  return answers;
}

Ids random_ids(Rng& rng, std::uint64_t count, std::uint64_t kinds = 256) {
  Ids ids;
  for (std::uint64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>(rng.below(kinds)));
  return ids;
}

class SmallEngine : public ::testing::Test {
 protected:
  SmallEngine() : model(tiny_config(), {}) { init_weights(model, 11); }

  std::unique_ptr<Engine> engine(EngineOptions options = {}) {
    options.on_thread_start = [] { set_cpu_threads(1); };
    return std::make_unique<Engine>(context, model, tokenizer, nullptr, std::move(options));
  }

  // The same request in a session of its own: the definition of what the engine must give.
  Answer alone(const GenerationRequest& request, std::int64_t choice = 0) {
    Session session(context, model);
    SamplingOptions sampling = request.sampling;
    sampling.stream += static_cast<std::uint64_t>(choice);
    Sampler sampler(sampling);
    sampler.see_prompt(request.prompt);
    Answer a;
    for (std::size_t i = 0; i < request.prompt.size(); ++i) {
      const auto logits = session.feed({&request.prompt[i], 1});
      if (i + 1 < request.prompt.size()) {
        a.prompt_scores.push_back(
            static_cast<double>(logits[static_cast<std::size_t>(request.prompt[i + 1])]) -
            log_sum_exp(logits));
        continue;
      }
      if (request.max_tokens == 0) break;
      std::span<const float> now = logits;
      while (true) {
        const std::int32_t token = sampler.choose(now, session.tokens().size());
        a.tokens.push_back(token);
        const double total = log_sum_exp(now);
        a.scores.push_back(static_cast<double>(now[static_cast<std::size_t>(token)]) - total);
        a.top.push_back(top_scores(now, total, std::max<std::int64_t>(request.logprobs, 0)));
        if (sampler.stops(token)) {
          a.finish = FinishReason::stop;
          break;
        }
        sampler.accept(token);
        a.finish = FinishReason::length;
        if (std::ssize(a.tokens) == request.max_tokens ||
            std::ssize(request.prompt) + std::ssize(a.tokens) == model.config.max_positions)
          break;
        now = session.feed({&token, 1});
      }
    }
    const bool stopped = a.finish == FinishReason::stop;  // the stop token is told, but no text
    a.text = tokenizer.decode(std::span(a.tokens).first(a.tokens.size() - (stopped ? 1 : 0)), true, true);
    return a;
  }

  void expect_same(const Answer& got, const Answer& want, const GenerationRequest& request) {
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.finish, want.finish);
    EXPECT_EQ(got.text, want.text);
    if (request.logprobs >= 0) {
      EXPECT_EQ(got.scores, want.scores);  // the very bits
      for (std::size_t i = 0; i < std::min(got.top.size(), want.top.size()); ++i) {
        ASSERT_EQ(got.top[i].size(), want.top[i].size());
        for (std::size_t j = 0; j < got.top[i].size(); ++j) {
          EXPECT_EQ(got.top[i][j].token, want.top[i][j].token);
          EXPECT_EQ(got.top[i][j].log_probability, want.top[i][j].log_probability);
        }
      }
    }
    if (request.prompt_logprobs) {
      ASSERT_EQ(got.prompt_scores.size(), request.prompt.size());
      EXPECT_TRUE(std::isnan(got.prompt_scores[0]));
      EXPECT_TRUE(
          std::equal(want.prompt_scores.begin(), want.prompt_scores.end(), got.prompt_scores.begin() + 1));
    }
  }

  GenerationRequest random_request(Rng& rng, const std::vector<Ids>& openings) {
    GenerationRequest r;
    if (rng.below(2) == 0) r.prompt = openings[rng.below(openings.size())];
    const Ids more = random_ids(rng, 1 + rng.below(25), rng.below(2) == 0 ? 3 : 256);
    r.prompt.insert(r.prompt.end(), more.begin(), more.end());
    r.max_tokens = static_cast<std::int64_t>(rng.below(40));
    r.sampling.temperature = rng.below(3) == 0 ? 0.0 : 0.7;
    r.sampling.seed = rng.next();
    if (rng.below(3) == 0) r.sampling.top_p = 0.8;
    if (rng.below(3) == 0) r.sampling.top_k = 20;
    if (rng.below(3) == 0) r.sampling.repetition_penalty = 1.3;
    if (rng.below(3) == 0) r.sampling.frequency_penalty = 0.4;
    if (rng.below(2) == 0) r.sampling.stop_tokens = random_ids(rng, 4);
    if (rng.below(2) == 0) r.logprobs = static_cast<std::int64_t>(rng.below(4));
    r.prompt_logprobs = r.logprobs >= 0 && rng.below(2) == 0;
    if (rng.below(6) == 0) r.choices = 2 + static_cast<std::int64_t>(rng.below(2));
    return r;
  }

  Tokenizer tokenizer = tiny_tokenizer();
  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, true};
  Model model;
};

// The property that all else rests on: whatever runs beside it, however prompts are cut, whatever is cached,
// copied, guessed or cancelled, an answer is bit for bit the one of a session of its own.
TEST_F(SmallEngine, AnswersAreThoseOfASessionUnderRandomSchedules) {
  Rng rng(2026, 3);
  std::uint64_t cached = 0, guessed = 0, waited = 0;
  for (int round = 0; round < 6; ++round) {
    EngineOptions options;
    options.slots = 1 + static_cast<std::int64_t>(rng.below(6));
    options.step_tokens = 3 + static_cast<std::int64_t>(rng.below(40));
    options.kv_bytes =
        round % 2 == 0 ? 0 : 128 * (2 + static_cast<std::int64_t>(rng.below(3))) * 3 * 2 * 16 * 4;
    options.guesses = round % 3 == 0 ? 0 : 1 + static_cast<std::int64_t>(rng.below(5));
    options.prefix_cache = round != 4;
    const auto e = engine(options);
    std::vector<Ids> openings{random_ids(rng, 40), random_ids(rng, 50, 3), random_ids(rng, 3)};
    std::vector<GenerationRequest> requests;
    std::vector<std::shared_ptr<Generation>> generations;
    std::vector<bool> dropped;
    for (int i = 0; i < 40; ++i) {
      requests.push_back(random_request(rng, openings));
      generations.push_back(e->submit(requests.back()));
      dropped.push_back(rng.below(10) == 0);
      if (rng.below(4) == 0) std::this_thread::sleep_for(1ms);
      if (dropped.back() && rng.below(2) == 0) generations.back()->cancel();
      waited = std::max(waited, static_cast<std::uint64_t>(e->stats().waiting));
    }
    for (std::size_t i = 0; i < requests.size(); ++i) {
      if (dropped[i]) generations[i]->cancel();
      const std::vector<Answer> got = collect(*generations[i]);
      if (dropped[i]) continue;
      for (std::size_t choice = 0; choice < got.size(); ++choice) {
        GenerationRequest asked = requests[i];
        asked.prompt_logprobs = asked.prompt_logprobs && choice == 0;
        Answer want = alone(asked, static_cast<std::int64_t>(choice));
        if (asked.max_tokens == 0) want.finish = FinishReason::length;
        expect_same(got[choice], want, asked);
      }
    }
    const EngineStats stats = e->stats();
    cached += stats.cached_tokens;
    guessed += stats.right_guesses;
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.kv_busy_rows, 0);
  }
  EXPECT_GT(cached, 500u);
  EXPECT_GT(guessed, 20u);
  EXPECT_GT(waited, 4u);
}

TEST_F(SmallEngine, AnswersToOnePromptReadItOnce) {
  Rng rng(1, 1);
  GenerationRequest r;
  r.prompt = random_ids(rng, 100);
  r.max_tokens = 4;
  r.choices = 5;
  r.sampling.temperature = 1.0;
  const auto e = engine();
  const auto answers = collect(*e->submit(r));
  EXPECT_NE(answers[0].tokens, answers[1].tokens);
  const EngineStats stats = e->stats();
  EXPECT_EQ(stats.cached_tokens, 4u * 99u);
  EXPECT_EQ(stats.prompt_tokens, 500u);
  EXPECT_EQ(stats.made_tokens, 20u);
  EXPECT_EQ(stats.length, 5u);
  EXPECT_EQ(stats.first_token.count(), 5u);
  EXPECT_EQ(stats.token.count(), 15u);
}

TEST_F(SmallEngine, GuessesChangeNothingAndSaveSteps) {
  GenerationRequest r;
  for (int i = 0; i < 60; ++i) r.prompt.push_back(i % 7);
  r.max_tokens = 60;
  EngineOptions plain, guessing;
  guessing.guesses = 6;
  const auto a = engine(plain), b = engine(guessing);
  const auto without = collect(*a->submit(r)), with = collect(*b->submit(r));
  EXPECT_EQ(without[0].tokens, with[0].tokens);
  EXPECT_EQ(a->stats().guessed_tokens, 0u);
  EXPECT_GT(b->stats().right_guesses, 0u);
  EXPECT_EQ(b->stats().steps + b->stats().right_guesses, a->stats().steps);
}

TEST_F(SmallEngine, StopStringsEndTheTextBeforeThem) {
  GenerationRequest r;
  r.prompt = {1, 2, 3};
  r.max_tokens = 60;
  r.sampling.temperature = 1.0;
  const auto e = engine();
  const std::string whole = collect(*e->submit(r))[0].text;
  // Two characters of ASCII from the middle.
  std::size_t at = whole.size() / 3;
  const auto plain = [&](std::size_t i) { return static_cast<unsigned char>(whole[i]) < 0x80; };
  while (at + 1 < whole.size() && !(plain(at) && plain(at + 1))) ++at;
  ASSERT_LT(at + 1, whole.size());
  r.stop = {whole.substr(at, 2), "not there"};
  const Answer stopped = collect(*e->submit(r))[0];
  EXPECT_EQ(stopped.text, whole.substr(0, whole.find(r.stop[0])));
  EXPECT_EQ(stopped.finish, FinishReason::stop);
}

TEST_F(SmallEngine, CancellationAndDeadlinesFreeTheirRows) {
  EngineOptions options;
  options.slots = 2;
  const auto e = engine(options);
  GenerationRequest r;
  r.prompt = {1, 2, 3};
  r.max_tokens = 100;
  std::vector<std::shared_ptr<Generation>> all;
  for (int i = 0; i < 6; ++i) {
    all.push_back(e->submit(r));
    all.back()->cancel();
  }
  r.deadline = std::chrono::steady_clock::now() - 1s;
  all.push_back(e->submit(r));
  for (std::size_t i = 0; i < all.size(); ++i) {
    const FinishReason want = i < 6 ? FinishReason::cancelled : FinishReason::deadline;
    const Answer a = collect(*all[i])[0];
    EXPECT_TRUE(a.finish == want || a.finish == FinishReason::length);
  }
  EXPECT_TRUE(e->wait_until_idle(5s));
  EXPECT_EQ(e->stats().kv_busy_rows, 0);
  EXPECT_EQ(e->stats().late, 1u);
}

TEST_F(SmallEngine, DrainRefusesNewRequestsAndFinishesTheOthers) {
  const auto e = engine();
  GenerationRequest r;
  r.prompt = {1, 2, 3};
  r.max_tokens = 80;
  const auto running = e->submit(r);
  e->drain();
  try {
    e->submit(r);
    ADD_FAILURE() << "no error";
  } catch (const RequestRefused& refused) {
    EXPECT_EQ(refused.why, RequestRefused::Reason::draining);
  }
  EXPECT_TRUE(e->wait_until_idle(20s));
  EXPECT_EQ(collect(*running)[0].tokens.size(), 80u);
}

TEST_F(SmallEngine, AFullQueueRefusesAllOrNone) {
  EngineOptions options;
  options.slots = 1;
  options.queue = 3;
  const auto e = engine(options);
  GenerationRequest r;
  r.prompt = {1, 2, 3};
  r.max_tokens = 120;
  const auto first = e->submit(r);
  std::vector<GenerationRequest> four(4, r);
  try {
    e->submit(four);
    ADD_FAILURE() << "no error";
  } catch (const RequestRefused& refused) {
    EXPECT_EQ(refused.why, RequestRefused::Reason::queue_full);
  }
  four.resize(3);
  EXPECT_EQ(e->submit(four).size(), 3u);
}

TEST_F(SmallEngine, WhatCannotBeAnsweredIsRefused) {
  const auto e = engine();
  const auto told = [&](auto set) -> std::string {
    GenerationRequest r;
    r.prompt = {1, 2, 3};
    set(r);
    try {
      e->submit(r);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(told([](auto& r) { r.prompt.clear(); }), "the prompt: expected a text, found none");
  EXPECT_EQ(told([](auto& r) { r.prompt = {261}; }), "the prompt: expected token ids in [0, 261), found 261");
  EXPECT_EQ(told([](auto& r) { r.prompt.assign(128, 1); }),
            "the prompt: expected at most 127 tokens, found 128: the context holds 128");
  EXPECT_EQ(told([](auto& r) {
              r.prompt.assign(128, 1);
              r.max_tokens = 0;
            }),
            "no error");
  EXPECT_EQ(told([](auto& r) { r.choices = 0; }), "n: expected 1 to 128 answers, found 0");
  EXPECT_EQ(told([](auto& r) { r.stop = {""}; }), "stop: expected texts, found an empty one");
  EXPECT_NE(told([](auto& r) { r.sampling.top_p = 2; }).find("top_p"), std::string::npos);
}

TEST_F(SmallEngine, ACacheSmallerThanOneContextIsRefused) {
  EngineOptions options;
  options.kv_bytes = 1000;
  try {
    engine(options);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(
        e.what(),
        "memory of the KV cache: expected at least 49152 bytes, for one context of 128 tokens, found 1000");
  }
}

// Never lets "the" pass for a moment: after each token the next must have an even id.
class EvenTokens : public TokenConstraint {
 public:
  TokenMask allowed() override { return mask_; }
  void accept(std::int32_t token) override { made_ += token % 2 == 0 ? 1 : 1000; }
  bool complete() const override { return made_ >= 5; }

 private:
  std::vector<std::uint64_t> mask_ = std::vector<std::uint64_t>(5, 0x5555555555555555u);
  int made_ = 0;
};

TEST_F(SmallEngine, AConstraintMasksTokensAndEndsTheAnswer) {
  GenerationRequest r;
  r.prompt = {1, 2, 3};
  r.max_tokens = 50;
  r.choices = 2;
  r.sampling.temperature = 2.0;
  r.constraint = [] { return std::make_unique<EvenTokens>(); };
  EngineOptions options;
  options.guesses = 3;
  for (const Answer& a : collect(*engine(options)->submit(r))) {
    EXPECT_EQ(a.tokens.size(), 5u);
    EXPECT_EQ(a.finish, FinishReason::stop);
    for (const std::int32_t token : a.tokens) EXPECT_EQ(token % 2, 0);
  }
}

// Records of some tokens cannot be had: who reads them ends with the error, the others do not notice.
TEST_F(SmallEngine, ALostRecordEndsOnlyTheRequestsThatReadIt) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "engine_table.safetensors";
  const TableShape shape = model.config.table_shape();
  {
    SafetensorsWriter writer(path, {{"stem.table", DType::f32, {shape.vocab, shape.layers, shape.width}}}, {},
                             4096);
    writer.write("stem.table", model.table.records().data,
                 static_cast<std::size_t>(shape.size()) * sizeof(float));
    writer.close();
  }
  Rng rng(8, 1);
  std::vector<GenerationRequest> requests;
  std::vector<Answer> wanted;
  for (int i = 0; i < 16; ++i) {
    GenerationRequest r;
    r.prompt = random_ids(rng, 20, 200);
    if (i % 4 == 0) r.prompt[static_cast<std::size_t>(i)] = 200;
    r.max_tokens = 12;
    r.sampling.logit_bias = {{200, -100.0f}};
    requests.push_back(r);
    wanted.push_back(alone(r));
  }
  const Table whole = model.table;
  TableOptions options;
  options.placement = {TablePlacement::Kind::disk, 1 << 20};
  options.verifier = [](std::int32_t token, std::span<const std::byte>) {
    if (token == 200) fail(ErrorCode::kIntegrity, "record 200: not as it was");
  };
  model.table = Table::open(Safetensors::open(path), shape, options);
  {
    EngineOptions small;
    small.step_tokens = 64;
    const auto e = engine(small);
    std::vector<std::shared_ptr<Generation>> generations;
    for (const GenerationRequest& r : requests) generations.push_back(e->submit(r));
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const Answer got = collect(*generations[i])[0];
      if (i % 4 == 0) {
        EXPECT_EQ(got.finish, FinishReason::error);
        EXPECT_NE(got.error.find("record 200"), std::string::npos) << got.error;
      } else {
        expect_same(got, wanted[i], requests[i]);
      }
    }
    EXPECT_EQ(e->stats().failed, 4u);
    ASSERT_TRUE(e->stats().table);
    EXPECT_GT(e->stats().table->hits, 0);
  }
  model.table = whole;
  std::filesystem::remove(path);
}

TEST_F(SmallEngine, ATraceIsReadableJson) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "engine_trace.json";
  {
    TraceWriter trace(path);
    EngineOptions options;
    options.trace = &trace;
    const auto e = engine(options);
    GenerationRequest r;
    r.prompt = {1, 2, 3};
    collect(*e->submit(r));
  }
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const Json events = parse_json(text, "trace");
  std::set<std::string> names;
  for (const Json& event : events) names.insert(event.at("name").get<std::string>());
  for (const char* name : {"queued", "prefill", "decode", "thread_name"})
    EXPECT_TRUE(names.contains(name)) << name;
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace stem
