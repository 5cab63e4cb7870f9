#include "generate/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu.h"

namespace stem {
namespace {

ModelConfig small() {
  ModelConfig c;
  c.vocab = 50;
  c.width = 16;
  c.layers = 2;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_width = 8;
  c.ffn = 24;
  c.max_positions = 20;
  c.stem_layers = {1};
  return c;
}

class SmallSession : public ::testing::Test {
 protected:
  SmallSession() : model(small(), {}) { init_weights(model, 3); }
  std::string failure(Session& session, const std::vector<std::int32_t>& tokens) {
    try {
      session.feed(tokens);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      return e.what();
    }
    return "no error";
  }

  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, true};
  Model model;
};

TEST_F(SmallSession, AnIdOutsideTheVocabularyIsRefusedAndNothingIsLost) {
  Session session(context, model), untouched(context, model);
  const std::vector<std::int32_t> good{1, 2};
  session.feed(good);
  untouched.feed(good);
  EXPECT_EQ(failure(session, {3, 50}), "token id: expected a number in [0, 50), found 50");
  EXPECT_EQ(failure(session, {-1}), "token id: expected a number in [0, 50), found -1");
  EXPECT_EQ(session.tokens(), good);
  const std::vector<std::int32_t> more{7};
  const auto a = session.feed(more), b = untouched.feed(more);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size_bytes()), 0);
}

TEST_F(SmallSession, AFullContextIsRefusedAndNothingIsLost) {
  Session session(context, model, nullptr, 4);
  EXPECT_EQ(session.capacity(), 4);
  EXPECT_EQ(failure(session, {1, 2, 3, 4, 5}),
            "the context holds 4 tokens (max_position_embeddings), the text needs 5");
  EXPECT_EQ(failure(session, {1, 2, 3, 4}), "no error");
  EXPECT_EQ(failure(session, {5}), "the context holds 4 tokens (max_position_embeddings), the text needs 5");
  EXPECT_EQ(session.tokens().size(), 4u);
  EXPECT_EQ(Session(context, model, nullptr, 1000).capacity(), 20);
}

// Keys and values in f32, bf16 and int8: nearly the same logits, and of each the same bits however the text
// is cut.
TEST(Session, KeysInFewerBitsChangeLittleAndStayIndependentOfChunks) {
  ModelConfig c = small();
  c.width = 64;
  c.head_width = 32;
  c.max_positions = 64;
  Model model(c, {});
  init_weights(model, 5);
  Workspace workspace;
  const Context context{&cpu_kernels(), &workspace, true};
  std::vector<std::int32_t> text(60);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::int32_t>(i * 7 % 50);
  std::vector<float> wide;
  double before = 0;
  for (const DType type : {DType::f32, DType::bf16, DType::i8}) {
    model.kv_dtype = type;
    Session whole(context, model), parts(context, model);
    const auto first = whole.feed(text);
    const std::vector<float> logits(first.begin(), first.end());
    std::span<const float> last;
    for (std::size_t i = 0; i < text.size();) {
      const std::size_t count = std::min<std::size_t>(i % 5 + 1, text.size() - i);
      last = parts.feed(std::span(text).subspan(i, count));
      i += count;
    }
    EXPECT_EQ(std::memcmp(logits.data(), last.data(), last.size_bytes()), 0) << name_of(type);
    if (type == DType::f32) wide = logits;
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < wide.size(); ++i) {
      difference = std::max(difference, static_cast<double>(std::abs(logits[i] - wide[i])));
      size = std::max(size, static_cast<double>(std::abs(wide[i])));
    }
    EXPECT_LE(difference, 0.02 * size) << name_of(type);
    if (type != DType::f32) {
      EXPECT_GT(difference, before) << name_of(type) << ": expected to differ";
    }
    EXPECT_EQ(KvCache::row_bytes(model), 2 * 2 * (type == DType::f32 ? 128 : type == DType::bf16 ? 64 : 34));
  }
}

TEST_F(SmallSession, RewindIsAsIfTheRestHadNeverBeenFed) {
  Session session(context, model), other(context, model);
  session.feed(std::vector<std::int32_t>{1, 2, 3, 4, 5});
  session.rewind(2);
  const auto a = session.feed(std::vector<std::int32_t>{9, 8});
  const auto b = other.feed(std::vector<std::int32_t>{1, 2, 9, 8});
  EXPECT_EQ(session.tokens(), other.tokens());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size_bytes()), 0);
}

TEST_F(SmallSession, ReuseKeepsWhatThePromptBeginsWithAndLeavesOneTokenToFeed) {
  Session session(context, model), other(context, model);
  const auto rest = [&](const std::vector<std::int32_t>& prompt) { return session.reuse(prompt).size(); };
  EXPECT_EQ(rest({1, 2, 3}), 3u);
  session.feed(std::vector<std::int32_t>{1, 2, 3, 4, 5});
  EXPECT_EQ(rest({1, 2, 3, 4, 5}), 1u);  // its last logits are wanted again
  const std::vector<std::int32_t> prompt{1, 2, 9, 8};
  const auto left = session.reuse(prompt);
  EXPECT_EQ(std::vector<std::int32_t>(left.begin(), left.end()), (std::vector<std::int32_t>{9, 8}));
  const auto a = session.feed(left), b = other.feed(prompt);
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size_bytes()), 0);
  EXPECT_EQ(rest({7}), 1u);
  EXPECT_TRUE(session.tokens().empty());
}

TEST_F(SmallSession, GreedyGenerationStopsAtTheLimitTheStopTokenAndTheFullContext) {
  const std::vector<std::int32_t> prompt{1, 2, 3};
  GenerateOptions options;
  options.max_tokens = 5;
  Session a(context, model);
  const auto made = generate(a, prompt, options);
  ASSERT_EQ(made.size(), 5u);
  options.stop_tokens = {made[2]};
  const auto first = static_cast<std::size_t>(std::find(made.begin(), made.end(), made[2]) - made.begin());
  Session b(context, model);
  EXPECT_EQ(generate(b, prompt, options), std::vector(made.begin(), made.begin() + static_cast<long>(first)));
  options.stop_tokens = {};
  options.max_tokens = 1000;
  Session c(context, model);
  EXPECT_EQ(generate(c, prompt, options).size(), 18u);  // 20 positions; the last token needs none
  options.max_tokens = 0;
  Session d(context, model);
  EXPECT_TRUE(generate(d, prompt, options).empty());
}

TEST_F(SmallSession, TheCallbackSeesEachTokenAndMayStop) {
  std::vector<std::int32_t> seen;
  GenerateOptions options;
  options.max_tokens = 10;
  Session session(context, model);
  const std::vector<std::int32_t> prompt{1};
  const auto made = generate(session, prompt, options, [&](std::int32_t token) {
    seen.push_back(token);
    return seen.size() < 3;
  });
  EXPECT_EQ(made.size(), 3u);
  EXPECT_EQ(made, seen);
}

TEST_F(SmallSession, SamplingIsSeededAndDoesNotDependOnWhatWasDrawnBefore) {
  const std::vector<std::int32_t> prompt{1, 2, 3};
  GenerateOptions options;
  options.max_tokens = 15;
  options.temperature = 1.5;
  const auto with_seed = [&](std::uint64_t seed) {
    options.seed = seed;
    Session session(context, model);
    return generate(session, prompt, options);
  };
  EXPECT_EQ(with_seed(1), with_seed(1));
  EXPECT_NE(with_seed(1), with_seed(2));
  // A text cut in two calls continues as the whole one does.
  const auto whole = with_seed(7);
  std::vector<std::int32_t> longer = prompt;
  longer.insert(longer.end(), whole.begin(), whole.begin() + 4);
  Session session(context, model);
  options.max_tokens = 11;
  EXPECT_EQ(generate(session, longer, options), std::vector(whole.begin() + 4, whole.end()));
}

}  // namespace
}  // namespace stem
