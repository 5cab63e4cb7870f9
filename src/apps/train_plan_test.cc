#include "apps/train_plan.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "model/forward.h"

namespace stem {
namespace {

Settings shipped(const std::string& name) {
  Settings settings;
  settings.load_toml(std::filesystem::path(STEM_SOURCE_DIR) / "configs" / (name + ".toml"));
  return settings;
}

double part(const TrainPlan& plan, std::string_view key) {
  for (const MemoryPart& p : plan.memory) {
    if (p.key == key) return p.bytes;
  }
  return 0;
}

TEST(TrainPlan, ThePapersModelOfABillion) {
  const Settings settings = shipped("1b");
  const ModelConfig config = settings.resolve_model(settings.tokenizer_vocab);
  EXPECT_EQ(config.stem_layers, (std::vector<std::int64_t>{1, 4, 7, 10, 13}));
  const TrainPlan plan = plan_training(settings, config, {});
  EXPECT_NEAR(static_cast<double>(plan.account.active_parameters), 1.4145e9, 1e5);
  EXPECT_NEAR(static_cast<double>(plan.account.dense_parameters + plan.account.deleted_parameters), 1.4984e9,
              5e4);
  EXPECT_NEAR(static_cast<double>(plan.account.dense_parameters + plan.account.table_parameters), 6.668e9,
              5e5);
  EXPECT_NEAR(plan.training_flops_with_lookup(), 3 * 2.83e9, 3 * 5e6);
  EXPECT_NEAR(plan.training_flops(), 3 * 2.30e9, 3 * 5e6);
  EXPECT_EQ(plan.table_token_bytes, 81920);
  EXPECT_NEAR(plan.tokens, 1e12, 1e7);
  // 16 layers, 32 heads of 64: 4 FLOPs a head's component and key
  EXPECT_EQ(plan.attention_flops_full, 4.0 * 16 * 32 * 64 * 4096);
  EXPECT_EQ(plan.attention_flops_mean, 4.0 * 16 * 32 * 64 * 4097 / 2);
}

TEST(TrainPlan, ThePapersModelOf350Millions) {
  const Settings settings = shipped("350m");
  const ModelConfig config = settings.resolve_model(settings.tokenizer_vocab);
  const TrainPlan plan = plan_training(settings, config, {});
  EXPECT_NEAR(static_cast<double>(plan.account.dense_parameters + plan.account.deleted_parameters), 345.3e6,
              1e5);
  EXPECT_EQ(config.stem_layer_count(), 11);
  EXPECT_NEAR(plan.tokens, 1e11, 1e6);
}

// What is planned is what the model, the optimizer and the forward pass take, but for the rounding of each
// tensor to a cache line.
TEST(TrainPlan, MemoryIsWhatTheCodeTakes) {
  for (const char* variant : {"stem", "dense", "stem_gate", "stem_additive", "hash_moe", "moe"}) {
    for (const DType narrow : {DType::f32, DType::bf16}) {
      for (const char* tied : {"true", "false"}) {
        Settings settings;
        for (const std::string& s :
             {std::string("model.hidden_size=64"), std::string("model.ffn=96"),
              std::string("train.tokens_per_step=128"), fmt::format("model.tied={}", tied),
              fmt::format("model.variant={}", variant)})
          settings.set(s);
        const ModelConfig config = settings.resolve_model(500);
        const Precision precision{DType::f32, narrow};
        const TrainPlan plan = plan_training(settings, config, precision);
        const Model model(config, precision);
        const Optimizer optimizer(model);
        const auto bytes = [](const Buffer& buffer) { return static_cast<double>(buffer.size()); };
        EXPECT_NEAR(part(plan, "dense_weights"), bytes(model.weights.buffer), 4096);
        EXPECT_NEAR(part(plan, "narrow_copy"), bytes(model.compute.buffer), 4096);
        EXPECT_NEAR(part(plan, "dense_moments"), bytes(optimizer.m.buffer) + bytes(optimizer.v.buffer), 8192);
        EXPECT_NEAR(part(plan, "table"), 4.0 * static_cast<double>(model.table.shape().size()), 1);
        EXPECT_NEAR(part(plan, "embedding"), *tied == 't' ? 0 : 3 * 4.0 * 500 * 64, 1);

        Workspace workspace;
        Runtime runtime;
        Context context = runtime.training();
        context.workspace = &workspace;
        const auto* begin = static_cast<const char*>(workspace.bytes(1));
        allocate_activations(context, model, 128);
        const auto* end = static_cast<const char*>(workspace.bytes(1));
        ASSERT_LT(workspace.capacity(), std::size_t{32} << 20) << "the test needs one block";
        // A dispatch holds a few small arrays besides, and rounds its rows up.
        const double slack = config.has_experts() ? 0.04 * static_cast<double>(end - begin) : 0;
        EXPECT_NEAR(part(plan, "activations"), static_cast<double>(end - begin), 64.0 * (4 + 13 * 6) + slack)
            << variant << " " << name_of(narrow);
      }
    }
  }
}

TEST(TrainPlan, WhatIsFrozenTakesNoGradientsAndMoments) {
  Settings settings;
  settings.set("model.tied=false");
  const ModelConfig config = settings.resolve_model(500);
  const TrainPlan whole = plan_training(settings, config, {});
  settings.set("train.freeze=tables,embed*,lm_head*,self_attn.*,up_proj.weight");
  const TrainPlan part_of_it = plan_training(settings, config, {});
  EXPECT_EQ(part(part_of_it, "table_moments"), 0);
  EXPECT_EQ(part(part_of_it, "embedding") * 3, part(whole, "embedding"));
  EXPECT_EQ(part(part_of_it, "table"), part(whole, "table"));
  Model model(config, {});
  Gradients g;
  Workspace workspace;
  const Context context{nullptr, &workspace, false};
  const Freeze freeze(settings.train.freeze, config);
  prepare_gradients(context, model, TokenGroups(std::vector<std::int32_t>{1}), g, freeze);
  double values = 0;
  for_each_block(g.wanted, [&](const Out& view) { values += static_cast<double>(view.size()); });
  EXPECT_EQ(part(part_of_it, "dense_gradients"), 4 * values);
  EXPECT_LT(part(part_of_it, "dense_moments"), 2 * part(part_of_it, "dense_gradients"));  // up with gate
  EXPECT_LT(part_of_it.optimizer_bytes, whole.optimizer_bytes);
}

TEST(TrainPlan, TheTeacherIsCounted) {
  const Settings settings;
  const ModelConfig config = settings.resolve_model(500);
  for (const DType narrow : {DType::f32, DType::bf16}) {
    const Precision precision{DType::f32, narrow};
    const TrainPlan alone = plan_training(settings, config, precision),
                    taught = plan_training(settings, config, precision, 0, &config);
    const Model teacher(config, precision);
    const auto weights = static_cast<double>(teacher.weights.buffer.size() + teacher.compute.buffer.size());
    EXPECT_GT(part(taught, "teacher"), weights);
    EXPECT_NEAR(taught.memory_bytes - alone.memory_bytes, part(taught, "teacher"), 1);
    EXPECT_EQ(taught.training_flops(), alone.training_flops() + alone.account.flops_per_token);
    Settings matched = settings;
    matched.train.teacher_streams = 1;
    const double streams = 4.0 * static_cast<double>((config.layers + 1) * config.width) *
                           static_cast<double>(settings.train.batch.tokens_per_step);
    EXPECT_EQ(part(plan_training(matched, config, precision, 0, &config), "teacher"),
              part(taught, "teacher") + streams);
  }
}

TEST(TrainPlan, DistinctTokens) {
  EXPECT_NEAR(expected_distinct_tokens(8192, 2048), 681, 1);
  EXPECT_NEAR(expected_distinct_tokens(100, 1'000'000), 100, 0.01);
  EXPECT_DOUBLE_EQ(expected_distinct_tokens(1, 5), 1);
  EXPECT_LT(expected_distinct_tokens(128256, 32768), 32768);
}

TEST(TrainPlan, CountsOfTokens) {
  EXPECT_EQ(count_from_text("1000", "--tokens"), 1000);
  EXPECT_EQ(count_from_text("2.5M", "--tokens"), 2.5e6);
  EXPECT_EQ(count_from_text("100B", "--tokens"), 1e11);
  EXPECT_EQ(count_from_text("1T", "--tokens"), 1e12);
  EXPECT_EQ(count_from_text("1e9", "--tokens"), 1e9);
  for (const char* bad : {"", "B", "-5", "5 M", "5MB", "nan", "inf", "1e30", "0"}) {
    try {
      count_from_text(bad, "--tokens");
      FAIL() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      EXPECT_EQ(std::string(e.what()).find("--tokens"), 0u) << e.what();
    }
  }
}

TEST(TrainPlan, TimeFollowsTheRates) {
  TrainPlan plan;
  plan.account.flops_per_token = 1e6;
  plan.optimizer_bytes = 5e8;
  MachineRates rates;
  rates.gemm_flops_per_s = 3e9;
  rates.bytes_per_s = 1e9;
  const StepTime time = step_time(plan, rates, 1000, 0.5);
  EXPECT_DOUBLE_EQ(time.products, 1.0);
  EXPECT_DOUBLE_EQ(time.other, 1.0);
  EXPECT_DOUBLE_EQ(time.update, 0.5);
  EXPECT_DOUBLE_EQ(time.total(), 2.5);
}

}  // namespace
}  // namespace stem
