#include "apps/settings.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "core/error.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

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

std::string set(const std::string& assignment) {
  Settings settings;
  return message([&] { settings.set(assignment); });
}

std::string resolved(const std::vector<std::string>& assignments) {
  Settings settings;
  for (const auto& a : assignments) settings.set(a);
  return message([&] { settings.resolve_model(1000); });
}

class Toml : public ::testing::Test {
 protected:
  // The message behind "path: ".
  std::string load(const std::string& text, ErrorCode code = ErrorCode::kUsage) {
    std::ofstream(path) << text;
    settings = {};
    const std::string what = message([&] { settings.load_toml(path); }, code);
    if (what == "no error") return what;
    EXPECT_TRUE(what.starts_with(path.string() + ": ")) << what;
    return what.substr(path.string().size() + 2);
  }
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "run.toml";
  Settings settings;
};

TEST(SettingsSet, UnknownKeysNameTheNearest) {
  EXPECT_EQ(set("train.step=5"), "--set: unknown key train.step (did you mean \"train.steps\"?)");
  EXPECT_EQ(set("model.hiden_size=5"),
            "--set: unknown key model.hiden_size (did you mean \"model.hidden_size\"?)");
  EXPECT_EQ(set("xyzzy=5"), "--set: unknown key xyzzy");
  EXPECT_EQ(set("train.steps"), "--set: expected key=value, found \"train.steps\"");
}

TEST(SettingsSet, ValuesOutsideTheirRangeAreRefused) {
  EXPECT_EQ(set("train.steps=5"), "no error");
  for (const char* wrong : {"0", "-1", "1.5", "five", "", " 5", "99999999999999999999"}) {
    EXPECT_EQ(set(std::string("train.steps=") + wrong),
              fmt::format("--set: train.steps: expected an integer in [1, 1000000000], found \"{}\"", wrong));
  }
  EXPECT_EQ(set("train.lr=nan"), "--set: train.lr: expected a number in [0, 10], found \"nan\"");
  EXPECT_EQ(set("model.tied=yes"), "--set: model.tied: expected true or false, found \"yes\"");
}

TEST(SettingsModel, ImpossibleShapesAreNamed) {
  EXPECT_EQ(resolved({}), "no error");
  EXPECT_EQ(resolved({"model.heads=5"}),
            "settings: model.heads: expected a divisor of model.hidden_size = 128, found 5");
  EXPECT_EQ(resolved({"model.kv_heads=3"}),
            "settings: num_key_value_heads: expected a divisor of num_attention_heads = 4, found 3");
  EXPECT_EQ(resolved({"model.stem_layers=1,6"}),
            "settings: stem_layers: expected layers below num_hidden_layers = 6, found 6");
  EXPECT_EQ(resolved({"model.stem_layers=1,4,1"}),
            "settings: stem_layers: expected each layer once, found 1 twice");
  EXPECT_EQ(
      resolved({"model.variant=stems"}),
      "settings: ffn_variant: expected one of dense, stem, stem_gate, stem_additive, hash_moe, moe, found "
      "\"stems\"");
  EXPECT_EQ(resolved({"model.variant=moe", "model.experts=4", "model.experts_per_token=5"}),
            "settings: num_experts_per_tok: expected a number in [1, num_local_experts = 4] for ffn_variant "
            "moe, found 5");
  EXPECT_EQ(resolved({"model.variant=hash_moe", "model.hash_seed=3", "model.expert_ffn=64"}), "no error");
  EXPECT_EQ(resolved({"train.sequence=512"}),
            "settings: train.sequence: expected at most model.max_positions = 256, found 512");
  EXPECT_EQ(resolved({"train.precision=f16"}),
            "settings: train.precision: expected auto, f32 or bf16, found \"f16\"");
}

TEST(SettingsModel, KvHeadsAndHeadWidthFollowTheHeads) {
  Settings settings;
  settings.set("model.heads=8");
  settings.set("model.stem_layers=4,1");
  const ModelConfig c = settings.resolve_model(1000);
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.head_width, 16);
  EXPECT_EQ(c.vocab, 1000);
  EXPECT_EQ(c.stem_layers, (std::vector<std::int64_t>{1, 4}));
  settings.set("model.variant=dense");
  EXPECT_TRUE(settings.resolve_model(1000).stem_layers.empty());
}

TEST_F(Toml, SetsEveryKindOfValue) {
  ASSERT_EQ(load("[model]\nhidden_size = 64\ntied = false\nvariant = \"stem_gate\"\nstem_layers = [1, 4]\n"
                 "rope_theta = 500.5\n[train]\nlr = 0.5\n"),
            "no error");
  EXPECT_EQ(settings.model.width, 64);
  EXPECT_FALSE(settings.model.tied);
  EXPECT_EQ(settings.variant, "stem_gate");
  EXPECT_EQ(settings.stem_layers, "1,4");
  EXPECT_EQ(settings.model.rope_theta, 500.5);
  EXPECT_EQ(settings.train.lr, 0.5);
  EXPECT_EQ(settings.to_json()["model.hidden_size"], 64);
}

TEST_F(Toml, UnknownKeysNameTheNearest) {
  EXPECT_EQ(load("[train]\nstep = 5\n"), "unknown key train.step (did you mean \"train.steps\"?)");
  EXPECT_EQ(load("[trian]\nsteps = 5\n"), "unknown key trian.steps (did you mean \"train.steps\"?)");
  EXPECT_EQ(load("steps = 5\n"), "unknown key steps");
}

TEST_F(Toml, WrongFilesAreRefused) {
  EXPECT_EQ(load("[train]\nsteps = \"many\"\n"),
            "train.steps: expected an integer in [1, 1000000000], found \"many\"");
  EXPECT_NE(load("[train\nsteps = 5\n", ErrorCode::kFormat).find("line 1: "), std::string::npos);
  EXPECT_EQ(load("[model]\nstem_layers = [1, \"x\"]\n", ErrorCode::kFormat),
            "model.stem_layers: expected a list of integers");
  EXPECT_EQ(load("[model.heads]\nx = 1\n", ErrorCode::kFormat),
            "model.heads: expected a string, number, boolean or list");
  EXPECT_NE(load(std::string("\0\1\2", 3), ErrorCode::kFormat), "no error");
  fs::remove(path);
  EXPECT_NE(message([&] { Settings().load_toml(path); }, ErrorCode::kNotFound), "no error");
}

TEST_F(Toml, ErrorsOfTheShapeNameTheFile) {
  ASSERT_EQ(load("[model]\nheads = 5\n"), "no error");
  EXPECT_EQ(message([&] { settings.resolve_model(1000); }),
            path.string() + ": model.heads: expected a divisor of model.hidden_size = 128, found 5");
}

TEST(SettingsHelp, NamesEveryKey) {
  const std::string help = Settings::help();
  const Json keys = Settings().to_json();
  for (const auto& [key, value] : keys.items())
    EXPECT_NE(help.find("  " + key + " "), std::string::npos) << key;
}

TEST_F(Toml, SettingsOfARunComeBackFromItsJson) {
  Settings wrote;
  for (const char* assignment :
       {"model.stem_layers=1,4", "model.tied=false", "train.lr=1e-5", "train.data_seed=77",
        "train.table_optimizer=exact", "train.freeze=embed*,tables"})
    wrote.set(assignment);
  std::ofstream(path) << dump_json(wrote.to_json());
  Settings read;
  read.load_json(path);
  EXPECT_EQ(read.to_json(), wrote.to_json());
  const auto verdict = [&](const std::string& text, ErrorCode code) {
    std::ofstream(path) << text;
    return message([&] { Settings().load_json(path); }, code);
  };
  EXPECT_EQ(verdict(R"({"train.step": 5})", ErrorCode::kUsage),
            path.string() + ": unknown key train.step (did you mean \"train.steps\"?)");
  EXPECT_EQ(verdict(R"({"train.steps": [5]})", ErrorCode::kFormat),
            path.string() + ": train.steps: expected a string, number or boolean, found [5]");
  EXPECT_NE(verdict("[1]", ErrorCode::kFormat).find(": expected an object"), std::string::npos);
}

TEST(SettingsModel, AModelToStartFromGivesTheShape) {
  Settings other;
  for (const char* assignment : {"model.layers=3", "model.ffn=96", "model.stem_layers=1,2"})
    other.set(assignment);
  const ModelConfig config = other.resolve_model(1000);
  Settings settings;
  settings.set("train.steps=7");
  settings.set("model.ffn=96");  // said again: no contradiction
  settings.adopt_model(config, "m");
  EXPECT_EQ(config_to_json(settings.resolve_model(1000), ""), config_to_json(config, ""));
  Settings wrong;
  wrong.set("model.layers=4");
  EXPECT_EQ(message([&] { wrong.adopt_model(config, "m"); }, ErrorCode::kMismatch),
            "settings: model.layers: expected 3 (m's), found 4: leave out what the model fixes");
}

TEST(SettingsModel, WhatToDoAtASpikeIsChecked) {
  EXPECT_EQ(resolved({"train.on_spike=panic"}),
            "train.on_spike: expected continue, stop, skip or rollback, found \"panic\"");
  EXPECT_EQ(resolved({"train.on_spike=rollback"}),
            "settings: train.checkpoint_every: expected at least 1 with train.on_spike = rollback");
  EXPECT_EQ(resolved({"train.on_spike=rollback", "train.checkpoint_every=5"}), "no error");
  EXPECT_EQ(resolved({"train.table_optimizer=both"}),
            "train.table_optimizer: expected lazy or exact, found \"both\"");
}

}  // namespace
}  // namespace stem
