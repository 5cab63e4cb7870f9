// What a pass need not do: gradients of what is frozen, layers below all that trains, activations that nobody
// reads. None of it changes a bit of the rest.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <ostream>

#include "kernels/cpu/cpu.h"
#include "model/forward.h"
#include "model/tiny_config.h"

namespace stem {
namespace {

struct Setting {
  FfnVariant variant;
  bool tied;
  DType narrow;
  bool qwen = false;  // biases, and norms of heads
};
void PrintTo(const Setting& s, std::ostream* out) {
  *out << name_of(s.variant) << ' ' << (s.tied ? "tied" : "untied") << ' ' << name_of(s.narrow);
}

using IsFrozen = std::function<bool(const std::string& name)>;

class Frozen : public ::testing::TestWithParam<Setting> {
 protected:
  static constexpr std::int64_t kTokens = 12;

  Frozen() : model(config(), {DType::f32, GetParam().narrow}) {
    init_weights(model, 4);
    model.refresh_compute(ctx);
    for (std::int32_t i = 0; i < kTokens; ++i) {
      tokens.push_back(3 + i % 7);
      positions.push_back(i % 6);
      targets.push_back((5 * i) % 23);
    }
  }
  static ModelConfig config() {
    ModelConfig c = tiny_config(GetParam().variant);
    c.tied = GetParam().tied;
    c.qkv_bias = c.qk_norm = GetParam().qwen;
    return c;
  }
  TokenBatch batch() const { return {tokens, positions, segments, {}}; }

  FrozenTensors frozen(const IsFrozen& is_frozen) const {
    FrozenTensors result;
    for_each_tensor(model.config, model.weights, [&](const std::string& name, const Out&, TensorKind) {
      result.dense.push_back(is_frozen(name));
    });
    result.table = is_frozen("stem.table");
    result.embedding = is_frozen("model.embed_tokens.weight");
    return result;
  }

  void run(Gradients& g, const FrozenTensors& what) {
    const RowPlan rows(model.table, batch());
    const TokenGroups groups(tokens);
    Activations a = allocate_activations(ctx, model, kTokens);
    prepare_gradients(ctx, model, groups, g, what);
    forward_hidden(ctx, model, batch(), rows, a);
    const Out loss = workspace.matrix(DType::f32, 1, kTokens);
    attention_backwards = 0;
    backward(ctx, model, batch(), rows, groups, a, targets, std::vector<float>(kTokens, 0.1f), loss, g);
  }

  static void expect_same(const std::string& name, In got, In want) {
    ASSERT_EQ(got.size(), want.size()) << name;
    EXPECT_EQ(std::memcmp(got.data, want.data, static_cast<std::size_t>(want.size()) * 4), 0) << name;
  }

  // What is not frozen has the bits that it has when all train.
  void check(const IsFrozen& is_frozen) {
    Gradients all, some;
    run(all, {});
    EXPECT_EQ(attention_backwards, 4);
    const FrozenTensors what = frozen(is_frozen);
    run(some, what);
    std::vector<Out> wanted;
    for_each_tensor(model.config, all.dense,
                    [&](const std::string&, const Out& view, TensorKind) { wanted.push_back(view); });
    std::size_t i = 0, trained = 0;
    for_each_tensor(model.config, some.dense, [&](const std::string& name, const Out& view, TensorKind) {
      if (!what.dense[i]) expect_same(name, view, wanted[i]), ++trained;
      ++i;
    });
    if (all.rows && !what.table) expect_same("stem.table", some.rows, all.rows), ++trained;
    if (!GetParam().tied && !what.embedding)
      expect_same("embedding", some.embedding, all.embedding), ++trained;
    EXPECT_GT(trained, 0u);
  }
  inline static int attention_backwards = 0;  // of the last run
  static const Kernels& counting() {
    static const Kernels kernels = [] {
      Kernels k = cpu_kernels();
      k.attention.attention_backward = [](Out d_q, Out d_k, Out d_v, In d_y, In q, In key, In v, In y, In lse,
                                          Heads heads, std::span<const Segment> segments) {
        ++attention_backwards;
        cpu_kernels().attention.attention_backward(d_q, d_k, d_v, d_y, q, key, v, y, lse, heads, segments);
      };
      return k;
    }();
    return kernels;
  }

  Workspace workspace;
  Context ctx{&counting(), &workspace, false};
  Model model;
  std::vector<std::int32_t> tokens, positions, targets;
  std::vector<Segment> segments{{0, 6, 0, 6}, {6, 6, 6, 6}};
};

bool has(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

TEST_P(Frozen, WhatTrainsHasTheSameGradient) {
  check([](const std::string&) { return false; });
  check([](const std::string& name) { return has(name, "norm"); });
  check([](const std::string& name) { return has(name, "self_attn"); });
  check([](const std::string& name) { return has(name, "mlp"); });
  check([](const std::string& name) { return has(name, "embed_tokens") || has(name, "lm_head"); });
  check([](const std::string& name) { return has(name, "stem.table"); });
  // Halves of what lies in one matrix.
  check([](const std::string& name) { return has(name, "up_proj") || has(name, "k_proj"); });
}

// Only the middle trains: the layers below it have no backward.
TEST_P(Frozen, TheBackwardEndsAtTheLowestLayerThatTrains) {
  check([](const std::string& name) { return !has(name, "layers.2.mlp"); });
  EXPECT_EQ(attention_backwards, 1);  // layer 3's
  check([](const std::string& name) { return !has(name, "layers.2.self_attn.o_proj"); });
  EXPECT_EQ(attention_backwards, 2);
  check([](const std::string& name) { return !has(name, "layers.0.post_attention_layernorm"); });
  EXPECT_EQ(attention_backwards, 3);
  check([](const std::string& name) { return name != "model.norm.weight"; });
  EXPECT_EQ(attention_backwards, 0);
  check([](const std::string& name) { return !has(name, "embed_tokens"); });
  EXPECT_EQ(attention_backwards, 4);
  if (model.config.stem_layer_count() == 0) return;
  check([](const std::string& name) { return name != "stem.table"; });
  EXPECT_EQ(attention_backwards, 2);  // of layers 2 and 3
}

// How a teacher is asked, whatever its layers are.
TEST_P(Frozen, APassThatKeepsNothingIsTheSame) {
  const RowPlan rows(model.table, batch());
  Activations whole = allocate_activations(ctx, model, kTokens);
  forward_hidden(ctx, model, batch(), rows, whole);
  for (const double stream_weight : {0.0, 1.0}) {
    const TeacherPass pass = ask_teacher(ctx, model, batch(), rows, stream_weight);
    const In normed = pass.says.x;
    ASSERT_EQ(normed.dtype, GetParam().narrow);
    ASSERT_EQ(normed.size(), whole.normed_final.size());
    EXPECT_EQ(std::memcmp(normed.data, whole.normed_final.data,
                          static_cast<std::size_t>(normed.size() * size_of(normed.dtype))),
              0);
    ASSERT_EQ(pass.streams.size(), stream_weight > 0 ? whole.layers.size() + 1 : 0);
    for (std::size_t l = 0; l < pass.streams.size(); ++l)
      expect_same("stream", pass.streams[l], l < whole.layers.size() ? whole.layers[l].x_in : whole.x);
  }
}

TEST_P(Frozen, WhatIsFrozenHasNoView) {
  Gradients g;
  const auto only_down = [](const std::string& name) { return !has(name, "down_proj"); };
  run(g, frozen(only_down));
  const bool mixture = model.config.is_mixture(3);
  for (std::size_t l = 0; l < 4; ++l) {
    const LayerTensors& t = g.wanted.layers[l];
    EXPECT_FALSE(t.qkv || t.o || t.gate_up || t.gate || t.up || t.attention_norm || t.ffn_norm || t.router ||
                 t.experts_gate_up || t.qkv_bias || t.q_norm);
    EXPECT_EQ(static_cast<bool>(t.experts_down), mixture && l % 2 == 1);
    EXPECT_EQ(static_cast<bool>(t.down), !(mixture && l % 2 == 1));
  }
  EXPECT_FALSE(g.wanted.head || g.wanted.final_norm || g.rows || g.embedding);
  // Nothing was written there either.
  const Out& head = g.dense.head;
  for (std::int64_t i = 0; i < head.size(); ++i) ASSERT_EQ(head.row<float>(0)[i], 0.0f);
}

INSTANTIATE_TEST_SUITE_P(All, Frozen,
                         ::testing::Values(Setting{FfnVariant::dense, true, DType::f32},
                                           Setting{FfnVariant::dense, true, DType::bf16, true},
                                           Setting{FfnVariant::stem, true, DType::bf16},
                                           Setting{FfnVariant::stem, false, DType::f32},
                                           Setting{FfnVariant::stem_additive, false, DType::f32},
                                           Setting{FfnVariant::hash_moe, true, DType::f32},
                                           Setting{FfnVariant::moe, false, DType::bf16}));

}  // namespace
}  // namespace stem
