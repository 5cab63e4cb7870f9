#include "model/model_files.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "io/file.h"
#include "io/safetensors.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

ModelConfig small(FfnVariant variant = FfnVariant::stem, bool tied = true) {
  ModelConfig c;
  c.vocab = 40;
  c.width = 16;
  c.layers = 3;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_width = 8;
  c.ffn = 24;
  c.max_positions = 12;
  c.tied = tied;
  c.variant = variant;
  if (variant != FfnVariant::dense) c.stem_layers = {0, 2};
  return c;
}

Model random_model(const ModelConfig& c) {
  Model model(c, {});
  init_weights(model, 9);
  return model;
}

class ModelFiles : public ::testing::Test {
 protected:
  std::string failure() const {
    try {
      read_model_files(dir, {});
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
  void change_config(const std::function<void(Json&)>& change) const {
    Json json = parse_json(read_file(dir / kConfigFile), "config");
    change(json);
    write_file_atomic(dir / kConfigFile, json.dump());
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

void expect_same(In a, In b, const std::string& name) {
  ASSERT_TRUE(same_shape(a, b)) << name;
  ASSERT_EQ(a.dtype, b.dtype) << name;
  EXPECT_EQ(std::memcmp(a.data, b.data, static_cast<std::size_t>(a.size() * size_of(a.dtype))), 0) << name;
}

TEST_F(ModelFiles, RoundTripInF32IsExactForEveryVariant) {
  for (const FfnVariant variant : {FfnVariant::dense, FfnVariant::stem, FfnVariant::stem_gate,
                                   FfnVariant::stem_additive, FfnVariant::hash_moe, FfnVariant::moe}) {
    for (const bool tied : {true, false}) {
      const Model model = random_model(small(variant, tied));
      fs::remove(dir / kTableFile);
      write_model_files(dir, model);
      for (const bool in_memory : {true, false}) {
        const Model back = read_model_files(dir, {{}, in_memory});
        EXPECT_EQ(config_to_json(back.config, ""), config_to_json(model.config, ""));
        expect_same(back.weights.flat, model.weights.flat, std::string(name_of(variant)));
        if (!tied) expect_same(back.embedding.view, model.embedding.view, "embedding");
        ASSERT_EQ(back.table.present(), model.table.present());
        if (model.table.present()) expect_same(back.table.records(), model.table.records(), "table");
        EXPECT_EQ(back.table.writable(), in_memory && model.table.present());
        EXPECT_EQ(back.hashed_expert, model.hashed_expert);
        EXPECT_EQ(fs::exists(dir / kTableFile), model.config.has_table());
      }
    }
  }
}

TEST_F(ModelFiles, RoundTripInBf16RoundsToNearestEven) {
  const Model model = random_model(small(FfnVariant::stem, false));
  write_model_files(dir, model, {.dtype = DType::bf16});
  const Model back = read_model_files(dir, {{}, true});
  const auto expect_rounded = [](In found, In original, const std::string& name) {
    for (std::int64_t i = 0; i < original.size(); ++i) {
      const float wanted = static_cast<float>(bf16(original.row<float>(0)[i]));
      ASSERT_EQ(found.row<float>(0)[i], wanted) << name << " " << i;
    }
  };
  expect_rounded(back.weights.flat, model.weights.flat, "dense");
  expect_rounded(back.embedding.view, model.embedding.view, "embedding");
  expect_rounded(back.table.records(), model.table.records(), "table");
  EXPECT_EQ(Safetensors::open(dir / kTableFile).info("stem.table").type, "BF16");
  EXPECT_EQ(read_model_files(dir, {}).table.dtype(), DType::bf16);  // mapped as it is stored
  EXPECT_EQ(back.precision.narrow, DType::bf16);  // products read the same numbers in half the bytes
  EXPECT_EQ(read_model_files(dir, {Precision{}, true}).precision.narrow, DType::f32);
  EXPECT_EQ(parse_json(read_file(dir / kConfigFile), "config")["torch_dtype"], "bfloat16");
}

TEST_F(ModelFiles, TensorsHaveLlamasNamesAndAStemLayerNoUpProjection) {
  write_model_files(dir, random_model(small()));
  const Safetensors file = Safetensors::open(dir / kWeightsFile);
  EXPECT_EQ(file.info("model.layers.1.self_attn.k_proj.weight").shape, (std::vector<std::int64_t>{8, 16}));
  EXPECT_EQ(file.info("model.layers.1.mlp.up_proj.weight").shape, (std::vector<std::int64_t>{24, 16}));
  EXPECT_EQ(file.info("model.norm.weight").shape, (std::vector<std::int64_t>{16}));
  EXPECT_EQ(file.info("model.embed_tokens.weight").shape, (std::vector<std::int64_t>{40, 16}));
  EXPECT_THROW(file.info("model.layers.0.mlp.up_proj.weight"), Error);
  EXPECT_THROW(file.info("lm_head.weight"), Error);
}

TEST_F(ModelFiles, ExpertsHaveMixtralsNames) {
  ModelConfig c = small(FfnVariant::moe);
  c.experts.experts = 3;
  const Model model = random_model(c);
  write_model_files(dir, model);
  const Safetensors file = Safetensors::open(dir / kWeightsFile);
  EXPECT_EQ(file.info("model.layers.2.mlp.gate.weight").shape, (std::vector<std::int64_t>{3, 16}));
  EXPECT_EQ(file.info("model.layers.2.mlp.experts.2.gate_proj.weight").shape,
            (std::vector<std::int64_t>{12, 16}));
  EXPECT_EQ(file.info("model.layers.0.mlp.experts.0.down_proj.weight").shape,
            (std::vector<std::int64_t>{16, 12}));
  EXPECT_EQ(file.info("model.layers.1.mlp.down_proj.weight").shape, (std::vector<std::int64_t>{16, 24}));
  EXPECT_THROW(file.info("model.layers.2.mlp.experts.3.up_proj.weight"), Error);
  EXPECT_THROW(file.info("model.layers.2.mlp.down_proj.weight"), Error);
  // Expert 2's up projection lies behind its gate projection in the stack.
  const Out stack = model.weights.layers[2].experts_gate_up;
  EXPECT_EQ(std::memcmp(file.data("model.layers.2.mlp.experts.2.up_proj.weight"),
                        stack.slice_rows(5 * 12, 12).data, 12 * 16 * sizeof(float)),
            0);
  change_config([](Json& j) { j["num_local_experts"] = 4; });
  EXPECT_NE(failure().find("model.layers.0.mlp.experts.3.down_proj.weight"), std::string::npos);
  change_config([](Json& j) { j["num_local_experts"] = 2; });
  EXPECT_NE(failure().find("mlp.gate.weight: expected F32 or BF16 [2, 16]"), std::string::npos);
  change_config([](Json& j) {
    j["num_local_experts"] = 3;
    j["moe_intermediate_size"] = 16777216;  // would take gigabytes
  });
  EXPECT_NE(failure().find(
                "expected F32 or BF16 [16, 16777216] (hidden_size, moe_intermediate_size of config.json)"),
            std::string::npos);
}

TEST_F(ModelFiles, TheTableStartsOnAPageAndRecordsHaveAddresses) {
  const Model model = random_model(small());
  write_model_files(dir, model);
  const Safetensors file = Safetensors::open(dir / kTableFile);
  EXPECT_EQ(file.info("stem.table").offset % 4096, 0u);
  const RecordAddress a = record_address(file, 7);
  EXPECT_EQ(a.bytes, 2u * 24 * 4);
  EXPECT_EQ(a.offset, file.info("stem.table").offset + 7 * a.bytes);
  const std::string bytes = read_file(dir / kTableFile);
  EXPECT_EQ(std::memcmp(bytes.data() + a.offset, model.table.record(7), a.bytes), 0);
}

TEST_F(ModelFiles, AnAdditiveModelWithoutATableFileHasZeroRows) {
  write_model_files(dir, random_model(small(FfnVariant::stem_additive)));
  fs::remove(dir / kTableFile);
  const Model back = read_model_files(dir, {});
  EXPECT_FALSE(back.table.present());
  EXPECT_EQ(back.table.shape(), back.config.table_shape());
  EXPECT_EQ(back.table.row(39, 1).data, nullptr);
  EXPECT_TRUE(read_model_files(dir, {{}, true}).table.writable());  // training starts from zeros
}

TEST_F(ModelFiles, AShapeThatIsNotTheConfigsIsNamed) {
  write_model_files(dir, random_model(small()));
  ASSERT_EQ(failure(), "no error");
  const std::string weights = (dir / kWeightsFile).string();
  change_config([](Json& j) { j["vocab_size"] = 41; });
  EXPECT_EQ(failure(), weights +
                           ": model.embed_tokens.weight: expected F32 or BF16 [41, 16] (vocab_size, "
                           "hidden_size of config.json), found F32 [40, 16]");
  change_config([](Json& j) {
    j["vocab_size"] = 40;
    j["intermediate_size"] = 16777216;  // would take terabytes
  });
  EXPECT_NE(failure().find("mlp.down_proj.weight: expected F32 or BF16 [16, 16777216]"), std::string::npos);
  change_config([](Json& j) {
    j["intermediate_size"] = 24;
    j["num_key_value_heads"] = 2;
  });
  EXPECT_NE(failure().find("k_proj.weight: expected F32 or BF16 [16, 16]"), std::string::npos);
  change_config([](Json& j) {
    j["num_key_value_heads"] = 1;
    j["stem_layers"] = {0};
  });
  EXPECT_NE(failure().find("model.layers.2.mlp.up_proj.weight"), std::string::npos);
  change_config([](Json& j) { j["stem_layers"] = {0, 1, 2}; });
  EXPECT_NE(failure().find("model.layers.1.mlp.up_proj.weight: a tensor that config.json"),
            std::string::npos);
  change_config([](Json& j) {
    j["stem_layers"] = {0, 2};
    j["num_hidden_layers"] = 4;
  });
  EXPECT_NE(failure().find("model.layers.3.mlp.down_proj.weight"), std::string::npos);
}

TEST_F(ModelFiles, MissingAndTruncatedFilesAreNamed) {
  write_model_files(dir, random_model(small()));
  for (const char* name : {kConfigFile, kWeightsFile, kTableFile}) {
    const fs::path path = dir / name;
    const std::string whole = read_file(path);
    fs::remove(path);
    EXPECT_NE(failure().find(path.string()), std::string::npos) << name;
    for (const std::size_t part : {std::size_t{0}, std::size_t{1}, whole.size() / 2, whole.size() - 1}) {
      write_file_atomic(path, whole.substr(0, part));
      const std::string found = failure();
      if (name == std::string(kConfigFile) && part == whole.size() - 1) continue;  // only its last newline
      EXPECT_NE(found.find(path.string()), std::string::npos) << name << " cut to " << part << ": " << found;
      EXPECT_EQ(found.find('\n'), std::string::npos);
    }
    write_file_atomic(path, whole);
  }
  EXPECT_EQ(failure(), "no error");
}

TEST(ModelInit, SigmasAreTheSpecifications) {
  ModelConfig c = small();
  c.width = 128;
  c.ffn = 256;
  c.vocab = 600;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 4;
  c.head_width = 32;
  Model model(c, {});
  init_weights(model, 1);
  const auto sigma = [](In view) {
    double sum = 0.0;
    for (std::int64_t i = 0; i < view.size(); ++i) {
      const auto v = static_cast<double>(view.row<float>(0)[i]);
      sum += v * v;
    }
    return std::sqrt(sum / static_cast<double>(view.size()));
  };
  const double cut = 0.9866;  // σ of a normal distribution cut at 3σ
  const double in = cut / std::sqrt(128.0);
  EXPECT_NEAR(sigma(model.weights.layers[1].gate_up), in, 0.02 * in);
  EXPECT_NEAR(sigma(model.weights.head), in, 0.02 * in);
  const double down = cut / std::sqrt(256.0) / std::sqrt(2.0 * 3.0);
  EXPECT_NEAR(sigma(model.weights.layers[1].down), down, 0.02 * down);
  const double table = std::sqrt(2.0 / (600 + 256));
  EXPECT_NEAR(sigma(model.table.records()), table, 0.02 * table);
  EXPECT_EQ(model.weights.final_norm.row<float>(0)[5], 1.0f);
  float largest = 0;
  for (std::int64_t i = 0; i < model.weights.head.size(); ++i)
    largest = std::max(largest, std::abs(model.weights.head.row<float>(0)[i]));
  EXPECT_LE(largest, 3.0f / std::sqrt(128.0f));
  Model again(c, {}), other(c, {});
  init_weights(again, 1);
  init_weights(other, 2);
  EXPECT_EQ(std::memcmp(again.weights.flat.data, model.weights.flat.data,
                        static_cast<std::size_t>(model.weights.flat.size()) * 4),
            0);
  EXPECT_NE(std::memcmp(other.table.record(3), model.table.record(3), 64), 0);
}

TEST(ModelInit, AnAdditiveTableStartsAtZero) {
  const Model model = random_model(small(FfnVariant::stem_additive));
  const In records = model.table.records();
  for (std::int64_t i = 0; i < records.size(); ++i) ASSERT_EQ(records.row<float>(0)[i], 0.0f);
}

}  // namespace
}  // namespace stem
