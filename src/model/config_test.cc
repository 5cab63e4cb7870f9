#include "model/config.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"

namespace stem {
namespace {

using Layers = std::vector<std::int64_t>;

ModelConfig good() {
  ModelConfig c;
  c.vocab = 100;
  c.stem_layers = {1, 4};
  return c;
}

std::string message(const std::function<void()>& action, ErrorCode code = ErrorCode::kUsage) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}

std::string verdict(const std::function<void(ModelConfig&)>& change) {
  ModelConfig c = good();
  change(c);
  return message([&] { c.validate("here"); });
}

TEST(ModelConfig, AGoodShapePasses) {
  EXPECT_EQ(verdict([](ModelConfig&) {}), "no error");
  EXPECT_EQ(verdict([](ModelConfig& c) {
              c.variant = FfnVariant::dense;
              c.stem_layers = {};
            }),
            "no error");
}

TEST(ModelConfig, EveryImpossibleExtentIsNamed) {
  struct Case {
    const char* field;
    std::int64_t ModelConfig::*member;
  };
  for (const Case& c :
       {Case{"vocab_size", &ModelConfig::vocab}, Case{"hidden_size", &ModelConfig::width},
        Case{"num_attention_heads", &ModelConfig::heads}, Case{"num_key_value_heads", &ModelConfig::kv_heads},
        Case{"head_dim", &ModelConfig::head_width}, Case{"intermediate_size", &ModelConfig::ffn},
        Case{"max_position_embeddings", &ModelConfig::max_positions}}) {
    for (const std::int64_t value : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1} << 40}) {
      EXPECT_EQ(verdict([&](ModelConfig& config) { config.*c.member = value; }),
                fmt::format("here: {}: expected a number in [1, 16777216], found {}", c.field, value));
    }
  }
  EXPECT_EQ(verdict([](ModelConfig& c) { c.layers = 5000; }),
            "here: num_hidden_layers: expected a number in [1, 4096], found 5000");
}

TEST(ModelConfig, HeadsMustFit) {
  EXPECT_EQ(verdict([](ModelConfig& c) { c.kv_heads = 3; }),
            "here: num_key_value_heads: expected a divisor of num_attention_heads = 4, found 3");
  EXPECT_EQ(verdict([](ModelConfig& c) { c.kv_heads = 8; }),
            "here: num_key_value_heads: expected a divisor of num_attention_heads = 4, found 8");
  EXPECT_EQ(verdict([](ModelConfig& c) { c.head_width = 31; }),
            "here: head_dim: expected an even number (rotary pairs), found 31");
}

TEST(ModelConfig, NumbersThatMakeNoModel) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double eps : {0.0, -1e-5, 1.0, nan})
    EXPECT_NE(verdict([&](ModelConfig& c) {
                c.norm_eps = eps;
              }).find("here: rms_norm_eps: expected a number in (0, 1), found"),
              std::string::npos);
  for (const double theta : {0.0, 1.0, 1e13, nan})
    EXPECT_NE(verdict([&](ModelConfig& c) {
                c.rope_theta = theta;
              }).find("here: rope_theta: expected a number above 1, found"),
              std::string::npos);
}

TEST(ModelConfig, StemLayersMustExistOnceInOrder) {
  const auto with = [](Layers layers) { return verdict([&](ModelConfig& c) { c.stem_layers = layers; }); };
  EXPECT_EQ(with({1, 6}), "here: stem_layers: expected layers below num_hidden_layers = 6, found 6");
  EXPECT_EQ(with({-1, 2}), "here: stem_layers: expected layers below num_hidden_layers = 6, found -1");
  EXPECT_EQ(with({1, 4, 1}), "here: stem_layers: expected each layer once, found 1 twice");
  EXPECT_EQ(with({4, 1}), "here: stem_layers: expected ascending layers, found [4, 1]");
  EXPECT_EQ(with({}), "here: stem_layers: expected at least one for ffn_variant stem, found []");
  EXPECT_EQ(verdict([](ModelConfig& c) { c.variant = FfnVariant::dense; }),
            "here: stem_layers: expected none for ffn_variant dense, found [1, 4]");
}

TEST(ModelConfig, LayerChoices) {
  EXPECT_EQ(stem_layers_from("third", 16, "s"), (Layers{1, 4, 7, 10, 13}));  // the paper's 1B
  EXPECT_EQ(stem_layers_from("third", 6, "s"), (Layers{1, 4}));
  EXPECT_EQ(stem_layers_from("half", 6, "s"), (Layers{1, 3, 5}));
  EXPECT_EQ(stem_layers_from("full", 4, "s"), (Layers{1, 2, 3}));
  EXPECT_EQ(stem_layers_from("all", 4, "s"), (Layers{0, 1, 2, 3}));
  EXPECT_EQ(stem_layers_from("third", 6, "s", 0), (Layers{0, 3}));
  EXPECT_EQ(stem_layers_from("full", 4, "s", 0), (Layers{0, 1, 2, 3}));
  EXPECT_EQ(stem_layers_from("none", 4, "s"), Layers{});
  EXPECT_EQ(stem_layers_from("0, 5,2", 6, "s"), (Layers{0, 5, 2}));
  for (const char* wrong : {"quarter", "1,x", "1,,2", "1.5", "99999999999999999999"}) {
    EXPECT_EQ(message([&] { stem_layers_from(wrong, 6, "s"); }),
              fmt::format("s: expected third, half, full, all, none or a list such as \"1,4\", "
                          "found \"{}\"",
                          wrong));
  }
  EXPECT_EQ(message([] { stem_layers_from("third", 1, "s"); }), "s: \"third\" of 1 layers chooses none");
  EXPECT_EQ(message([] { stem_layers_from("", 6, "s"); }), "s: \"\" of 6 layers chooses none");
}

TEST(ModelConfig, VariantNames) {
  for (const FfnVariant v : {FfnVariant::dense, FfnVariant::stem, FfnVariant::stem_gate,
                             FfnVariant::stem_additive, FfnVariant::hash_moe, FfnVariant::moe})
    EXPECT_EQ(ffn_variant_from(name_of(v), "s"), v);
  EXPECT_EQ(message([] { ffn_variant_from("stems", "s"); }),
            "s: ffn_variant: expected one of dense, stem, stem_gate, stem_additive, hash_moe, moe, found "
            "\"stems\"");
}

TEST(ModelConfig, StemIndex) {
  const ModelConfig c = good();
  EXPECT_EQ(c.stem_index(4), 1);
  EXPECT_EQ(c.stem_index(0), -1);
  EXPECT_EQ(c.ffn_of(1), FfnVariant::stem);
  EXPECT_EQ(c.ffn_of(2), FfnVariant::dense);
  EXPECT_EQ(c.table_shape(), (TableShape{100, 2, 512}));
}

TEST(ModelConfig, JsonRoundTrip) {
  ModelConfig c = good();
  c.kv_heads = 2;
  c.head_width = 48;
  c.tied = false;
  c.norm_eps = 3e-6;
  c.rope_theta = 500000;
  c.variant = FfnVariant::stem_additive;
  const Json json = config_to_json(c, "bfloat16");
  EXPECT_EQ(json["torch_dtype"], "bfloat16");
  const ModelConfig back = config_from_json(parse_json(json.dump(), "x"), "x");
  EXPECT_EQ(config_to_json(back, "bfloat16"), json);
}

TEST(ModelConfig, WhatLlamaQwen2AndQwen3AddRoundTripsThroughJson) {
  ModelConfig c = good();
  EXPECT_FALSE(config_to_json(c, "float32").contains("qkv_bias"));
  EXPECT_TRUE(config_to_json(c, "float32")["rope_scaling"].is_null());
  c.qkv_bias = c.qk_norm = true;
  c.rope_scaling = {RopeScaling::Kind::llama3, 32, 1, 4, 8192};
  const Json json = config_to_json(c, "float32");
  EXPECT_EQ(config_to_json(config_from_json(parse_json(json.dump(), "x"), "x"), "float32"), json);
  EXPECT_EQ(json["rope_scaling"]["factor"], 32);
  c.rope_scaling = {RopeScaling::Kind::linear, 2};
  EXPECT_EQ(config_from_json(config_to_json(c, "float32"), "x").rope_scaling.factor, 2);
}

TEST(ModelConfig, ExpertsHaveTheVariantsOwnCountsUnlessSet) {
  ModelConfig c = good();
  EXPECT_EQ(c.expert_shape().experts, 0);
  EXPECT_TRUE(c.has_table());
  const auto shape = [&] {
    const ExpertShape e = c.expert_shape();
    return Layers{e.experts, e.chosen, e.width};
  };
  c.variant = FfnVariant::hash_moe;
  EXPECT_EQ(shape(), (Layers{16, 1, 512}));
  c.variant = FfnVariant::moe;
  EXPECT_EQ(shape(), (Layers{8, 2, 256}));
  c.experts = {.experts = 5, .chosen = 3, .width = 100};
  EXPECT_EQ(shape(), (Layers{5, 3, 100}));
  EXPECT_FALSE(c.has_table());
  EXPECT_EQ(c.table_shape().size(), 0);
}

TEST(ModelConfig, ImpossibleMixturesAreNamed) {
  const auto with = [](FfnVariant variant, const std::function<void(ExpertOptions&)>& change) {
    return verdict([&](ModelConfig& c) {
      c.variant = variant;
      change(c.experts);
    });
  };
  EXPECT_EQ(with(FfnVariant::moe, [](ExpertOptions&) {}), "no error");
  EXPECT_EQ(with(FfnVariant::hash_moe, [](ExpertOptions&) {}), "no error");
  EXPECT_EQ(with(FfnVariant::moe, [](ExpertOptions& e) { e.chosen = 9; }),
            "here: num_experts_per_tok: expected a number in [1, num_local_experts = 8] for ffn_variant moe, "
            "found 9");
  EXPECT_EQ(with(FfnVariant::hash_moe, [](ExpertOptions& e) { e.chosen = 2; }),
            "here: num_experts_per_tok: expected 1 for ffn_variant hash_moe, found 2");
  EXPECT_EQ(with(FfnVariant::moe, [](ExpertOptions& e) { e.experts = 1025; }),
            "here: num_local_experts: expected a number in [1, 1024], found 1025");
  EXPECT_EQ(with(FfnVariant::moe, [](ExpertOptions& e) { e.width = -1; }),
            "here: moe_intermediate_size: expected a number in [1, 16777216], found -1");
  EXPECT_EQ(with(FfnVariant::moe,
                 [](ExpertOptions& e) { e.balance_loss = std::numeric_limits<double>::quiet_NaN(); }),
            "here: router_aux_loss_coef: expected a number in [0, 1000], found nan");
  EXPECT_EQ(with(FfnVariant::moe, [](ExpertOptions& e) { e.z_loss = -1; }),
            "here: router_z_loss_coef: expected a number in [0, 1000], found -1");
}

TEST(ModelConfig, ExpertsRoundTripThroughJson) {
  ModelConfig c = good();
  EXPECT_FALSE(config_to_json(c, "float32").contains("num_local_experts"));
  c.variant = FfnVariant::moe;
  c.experts = {.experts = 6, .chosen = 3, .width = 40, .balance_loss = 0.02, .z_loss = 0.5};
  const auto round_trip = [&] {
    const Json json = config_to_json(c, "float32");
    EXPECT_EQ(config_to_json(config_from_json(parse_json(json.dump(), "x"), "x"), "float32"), json);
    return json;
  };
  EXPECT_EQ(round_trip()["num_experts_per_tok"], 3);
  EXPECT_EQ(round_trip()["router_aux_loss_coef"], 0.02);
  EXPECT_FALSE(round_trip().contains("hash_seed"));
  c.variant = FfnVariant::hash_moe;
  c.experts = {.hash_seed = 99};
  EXPECT_EQ(round_trip()["hash_seed"], 99);
  EXPECT_EQ(round_trip()["num_local_experts"], 16);
  Json json = round_trip();
  json.erase("hash_seed");
  EXPECT_NE(message([&] { config_from_json(json, "m"); }, ErrorCode::kFormat).find("hash_seed"),
            std::string::npos);
}

TEST(ModelConfig, JsonFaultsNameKeyExpectedAndFound) {
  const auto with = [](ErrorCode code, const std::function<void(Json&)>& change) {
    Json json = config_to_json(good(), "float32");
    change(json);
    return message([&] { config_from_json(json, "m/config.json"); }, code);
  };
  EXPECT_EQ(with(ErrorCode::kMismatch, [](Json& j) { j["model_type"] = "llama"; }),
            "m/config.json: model_type: expected \"stem\", found \"llama\"");
  EXPECT_NE(with(ErrorCode::kFormat,
                 [](Json& j) {
                   j["rope_scaling"] = {{"factor", 8}};
                 })
                .find("m/config.json: rope_scaling: type"),
            std::string::npos);
  EXPECT_EQ(with(ErrorCode::kMismatch,
                 [](Json& j) {
                   j["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 8}};
                 }),
            "m/config.json: rope_scaling: rope_type: expected default, linear or llama3, found \"yarn\"");
  EXPECT_EQ(with(ErrorCode::kMismatch,
                 [](Json& j) {
                   j["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 0}};
                 }),
            "m/config.json: rope_scaling: factor: expected a number above 0, found 0");
  EXPECT_NE(with(ErrorCode::kFormat, [](Json& j) { j.erase("hidden_size"); }).find("hidden_size"),
            std::string::npos);
  EXPECT_NE(with(ErrorCode::kFormat, [](Json& j) { j["num_hidden_layers"] = "six"; }).find("six"),
            std::string::npos);
  EXPECT_NE(with(ErrorCode::kFormat, [](Json& j) { j["vocab_size"] = 1e18; }).find("vocab_size"),
            std::string::npos);
  EXPECT_EQ(with(ErrorCode::kFormat,
                 [](Json& j) {
                   j["stem_layers"] = {1, "two"};
                 }),
            "m/config.json: stem_layers: expected integers, found \"two\"");
  EXPECT_EQ(with(ErrorCode::kUsage,
                 [](Json& j) {
                   j["stem_layers"] = {1, 6};
                 }),
            "m/config.json: stem_layers: expected layers below num_hidden_layers = 6, found 6");
  EXPECT_EQ(with(ErrorCode::kMismatch,
                 [](Json& j) {
                   j.erase("head_dim");
                   j["num_attention_heads"] = 5;
                   j["num_key_value_heads"] = 5;
                 }),
            "m/config.json: num_attention_heads: expected a divisor of hidden_size = 128, found 5");
}

// The paper's 1B: Llama-3.2-1B's shape, untied, five STEM layers. Source: stem-spec §4.
ModelConfig paper_1b(FfnVariant variant) {
  ModelConfig c;
  c.vocab = 128256;
  c.width = 2048;
  c.layers = 16;
  c.heads = 32;
  c.kv_heads = 8;
  c.head_width = 64;
  c.ffn = 8192;
  c.tied = false;
  c.variant = variant;
  if (variant != FfnVariant::dense) c.stem_layers = stem_layers_from("third", 16, "paper");
  c.validate("paper");
  return c;
}

TEST(Accounting, ThePapersOneBillion) {
  const Accounting dense = account(paper_1b(FfnVariant::dense)), stem = account(paper_1b(FfnVariant::stem));
  const auto billions = [](auto n) { return static_cast<double>(n) / 1e9; };
  EXPECT_NEAR(billions(dense.dense_parameters), 1.4984, 5e-5);
  EXPECT_NEAR(billions(stem.dense_parameters), 1.4145, 5e-5);
  EXPECT_NEAR(billions(stem.dense_parameters + stem.table_parameters), 6.668, 5e-4);
  EXPECT_NEAR(billions(dense.flops_per_token), 2.47, 5e-3);
  EXPECT_NEAR(billions(stem.flops_per_token), 2.30, 5e-3);
  EXPECT_NEAR(billions(dense.flops_per_token_with_lookup), 3.00, 5e-3);
  EXPECT_NEAR(billions(stem.flops_per_token_with_lookup), 2.83, 5e-3);
  EXPECT_EQ(stem.deleted_parameters, 5 * 2048 * 8192);
  EXPECT_EQ(dense.dense_parameters - stem.dense_parameters, stem.deleted_parameters);
  EXPECT_EQ(stem.table_parameters, std::int64_t{128256} * 5 * 8192);
  EXPECT_EQ(stem.active_parameters - stem.dense_parameters, 5 * 8192);
  EXPECT_EQ(2 * paper_1b(FfnVariant::stem).table_shape().record(), 81920);  // bytes a token, bf16
  EXPECT_EQ(dense.table_parameters, 0);
}

TEST(Accounting, VariantsKeepWhatTheyCompute) {
  const auto of = [](FfnVariant v) { return account(paper_1b(v)); };
  EXPECT_EQ(of(FfnVariant::stem_gate).dense_parameters, of(FfnVariant::stem).dense_parameters);
  EXPECT_EQ(of(FfnVariant::stem_additive).dense_parameters, of(FfnVariant::dense).dense_parameters);
  EXPECT_EQ(of(FfnVariant::stem_additive).deleted_parameters, 0);
}

// Five mixture layers of the same shape: hash_moe 1 of 16 experts of width F, moe 2 of 8 of width F/2.
TEST(Accounting, MixturesOfExperts) {
  const Accounting dense = account(paper_1b(FfnVariant::dense)),
                   hashed = account(paper_1b(FfnVariant::hash_moe)), moe = account(paper_1b(FfnVariant::moe));
  const std::int64_t ffn = std::int64_t{3} * 2048 * 8192, routers = 5 * 8 * 2048;
  EXPECT_EQ(ffn, 50'331'648);
  EXPECT_EQ(hashed.expert_parameters, 5 * 16 * ffn);
  EXPECT_EQ(hashed.dense_parameters, dense.dense_parameters + 5 * 15 * ffn);
  EXPECT_EQ(hashed.active_parameters, dense.dense_parameters);  // one expert is the dense FFN
  EXPECT_EQ(hashed.flops_per_token, dense.flops_per_token);
  EXPECT_EQ(hashed.flops_per_token_with_lookup, dense.flops_per_token_with_lookup);
  EXPECT_EQ(moe.expert_parameters, 5 * 8 * ffn / 2);
  EXPECT_EQ(moe.dense_parameters, dense.dense_parameters + 5 * 3 * ffn + routers);
  EXPECT_EQ(moe.active_parameters, dense.dense_parameters + routers);  // two halves and the router
  EXPECT_EQ(moe.flops_per_token, dense.flops_per_token + 2.0 * static_cast<double>(routers));
  EXPECT_EQ(moe.flops_per_token_with_lookup - moe.flops_per_token, 2.0 * 128256 * 2048);
  EXPECT_EQ(dense.dense_parameters, 1'498'415'104);
  EXPECT_EQ(hashed.dense_parameters, 5'273'288'704);
  EXPECT_EQ(moe.dense_parameters, 2'253'471'744);
  EXPECT_EQ(moe.table_parameters + moe.deleted_parameters + hashed.table_parameters, 0);
}

TEST(Accounting, TyingCountsTheEmbeddingOnce) {
  ModelConfig c = paper_1b(FfnVariant::stem);
  const std::int64_t untied = account(c).dense_parameters;
  c.tied = true;
  EXPECT_EQ(untied - account(c).dense_parameters, std::int64_t{128256} * 2048);
}

TEST(Accounting, ShareOfALayerSaved) {
  ModelConfig c = good();
  c.max_positions = 4096;
  c.width = 1536;
  c.ffn = 8960;  // Qwen2.5-1.5B
  EXPECT_NEAR(account(c).saved_share_per_stem_layer, 0.217, 5e-4);
  c.width = 5120;
  c.ffn = 27648;  // 32B
  EXPECT_NEAR(account(c).saved_share_per_stem_layer, 0.248, 5e-4);
}

}  // namespace
}  // namespace stem
