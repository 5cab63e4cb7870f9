// Models stored in small formats: what they read back as, and that a served model is the same model.
#include "model/served_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "io/file.h"
#include "io/temporary_folder.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "model/forward.h"
#include "model/model_files.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

ModelConfig small(FfnVariant variant, bool tied = true) {
  ModelConfig c;
  c.vocab = 45;
  c.width = 40;
  c.layers = 3;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_width = 24;
  c.ffn = 70;
  c.max_positions = 40;
  c.tied = tied;
  c.variant = variant;
  if (variant != FfnVariant::dense) c.stem_layers = {1};
  return c;
}

class ServedModel : public ::testing::Test {
 protected:
  Model write(const ModelConfig& c, WeightFormat format) const {
    Model model(c, {});
    init_weights(model, 5);
    write_model_files(dir, model,
                      {.choose = [&](const std::string&, TensorKind) { return std::optional(format); }});
    return model;
  }
  Model served(const Context& with) const {
    ReadOptions options;
    options.serving = &with;
    return read_model_files(dir, options);
  }

  // Logits [N, V] of a sequence that is fed in pieces.
  std::vector<float> logits(const Context& with, const Model& model,
                            const std::vector<std::int64_t>& pieces) const {
    const auto n = std::accumulate(pieces.begin(), pieces.end(), std::int64_t{0});
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i * 7 % 45);
    KvCache cache(model, n);
    std::vector<float> all(static_cast<std::size_t>(n * model.config.vocab));
    std::int64_t past = 0;
    for (const std::int64_t count : pieces) {
      const std::span<const std::int32_t> ids(tokens.data() + past, static_cast<std::size_t>(count));
      std::vector<std::int32_t> positions(ids.size());
      std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(past));
      std::vector<std::int64_t> at(ids.size());
      std::iota(at.begin(), at.end(), 0);
      const Segment segment{0, count, 0, past + count};
      const std::int32_t* context_ids = tokens.data();
      const TokenBatch batch{ids, positions, {&segment, 1}, {&context_ids, 1}};
      const RowPlan rows(model.table, batch);
      const Workspace::Scope scope(*with.workspace);
      Activations a = allocate_activations(with, model, count);
      forward_hidden(with, model, batch, rows, a, &cache);
      forward_logits(with, model, a, at,
                     matrix(all.data() + past * model.config.vocab, count, model.config.vocab));
      past += count;
    }
    return all;
  }

  std::string failure() const {
    try {
      served(context);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  mutable Workspace workspace;
  Context context{&cpu_kernels(), &workspace, true};
};

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double top = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    top = std::max(top, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return top;
}

constexpr WeightFormat kFormats[] = {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4,
                                     WeightFormat::int4_f16};

TEST_F(ServedModel, IsTheModelThatWasStoredForEveryVariantAndFormat) {
  for (const FfnVariant variant :
       {FfnVariant::dense, FfnVariant::stem, FfnVariant::stem_gate, FfnVariant::stem_additive}) {
    for (const WeightFormat format : kFormats) {
      ModelConfig c = small(variant, variant != FfnVariant::stem);
      c.qk_norm = variant == FfnVariant::stem_gate;
      c.qkv_bias = variant == FfnVariant::stem_additive;
      write(c, format);
      const Model plain = read_model_files(dir, {.precision = Precision{}}), fast = served(context);
      ASSERT_TRUE(fast.served);
      ASSERT_FALSE(plain.served);
      const std::vector<float> want = logits(context, plain, {30}), got = logits(context, fast, {30});
      // Only what the products read of x is rounded: to bf16, or to int8 in groups.
      EXPECT_LT(largest_difference(want, got), format == WeightFormat::bf16 ? 0.05 : 0.15)
          << name_of(variant) << " " << name_of(format);
      EXPECT_GT(largest_difference(want, got), 0.0);
    }
  }
}

TEST_F(ServedModel, BackendsAgree) {
  for (const WeightFormat format : {WeightFormat::int8, WeightFormat::int4, WeightFormat::int4_f16}) {
    write(small(FfnVariant::stem), format);
    const Context oracle{&reference_kernels(), &workspace, true};
    const Model a = served(context), b = served(oracle);
    // The attention may round queries and probabilities to bf16.
    EXPECT_LT(largest_difference(logits(context, a, {12}), logits(oracle, b, {12})), 0.1) << name_of(format);
  }
}

TEST_F(ServedModel, PiecesOfAPromptGiveTheSameBits) {
  for (const WeightFormat format : kFormats) {
    write(small(FfnVariant::stem), format);
    const Model model = served(context);
    const std::vector<float> whole = logits(context, model, {36});
    for (const std::vector<std::int64_t>& pieces :
         {std::vector<std::int64_t>{1, 35}, {17, 1, 18}, {2, 3, 5, 7, 19}, {9, 9, 9, 9}}) {
      const std::vector<float> cut = logits(context, model, pieces);
      EXPECT_EQ(std::memcmp(whole.data(), cut.data(), whole.size() * sizeof(float)), 0) << name_of(format);
    }
  }
}

TEST_F(ServedModel, StoredWeightsReadBackAsTheirRoundedValues) {
  for (const WeightFormat format : kFormats) {
    const Model model = write(small(FfnVariant::stem), format);
    const Model back = read_model_files(dir, {.precision = Precision{}});
    const In want = model.weights.layers[1].down, got = back.weights.layers[1].down;
    std::vector<std::byte> stored(static_cast<std::size_t>(stored_row_bytes(format, want.cols)));
    std::vector<float> row(static_cast<std::size_t>(want.cols));
    store_row(format, {want.row<float>(7), row.size()}, stored.data());
    read_row(format, stored.data(), row);
    EXPECT_EQ(std::memcmp(row.data(), got.row<float>(7), row.size() * sizeof(float)), 0);
    EXPECT_EQ(std::memcmp(model.weights.final_norm.data, back.weights.final_norm.data, 40 * sizeof(float)),
              0);  // vectors stay as they are
  }
}

TEST_F(ServedModel, ModelsInF32StayPlain) {
  Model model(small(FfnVariant::stem), {});
  init_weights(model, 5);
  write_model_files(dir, model);
  EXPECT_FALSE(served(context).served);
}

TEST_F(ServedModel, ProjectionsInDifferentFormatsAreServedAsTheWidest) {
  Model model(small(FfnVariant::dense), {});
  init_weights(model, 5);
  write_model_files(dir, model, {.choose = [](const std::string& name, TensorKind) {
                      return std::optional(name.find("v_proj") != std::string::npos ? WeightFormat::int8
                                                                                    : WeightFormat::int4);
                    }});
  const Model mixed = served(context);
  EXPECT_EQ(mixed.served.layers[0].qkv.served.format, WeightFormat::int8);
  EXPECT_EQ(mixed.served.layers[0].o.served.format, WeightFormat::int4);
  const Model plain = read_model_files(dir, {.precision = Precision{}});
  EXPECT_LT(largest_difference(logits(context, plain, {20}), logits(context, mixed, {20})), 0.15);
}

TEST_F(ServedModel, ABadFormatOrSizeIsNamed) {
  write(small(FfnVariant::stem), WeightFormat::int4);
  const fs::path path = dir / kWeightsFile;
  const std::string whole = read_file(path);
  ASSERT_EQ(failure(), "no error");
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string bytes = whole;
    const std::size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos);
    bytes.replace(at, from.size(), to);
    write_file_atomic(path, bytes);
    return failure();
  };
  const std::string name = "\"model.layers.1.mlp.down_proj.weight\":";
  EXPECT_NE(replaced(name + "\"int4\"", name + "\"int3\"")
                .find("down_proj.weight: expected int8, int4 or int4_f16, found \"int3\""),
            std::string::npos);
  EXPECT_NE(
      replaced(name + "\"int4\"", name + "\"int8\"")
          .find(
              "down_proj.weight: expected U8 [40, 102] (int8 of [40, 70], hidden_size, intermediate_size of "
              "config.json), found U8 [40, 58]"),
      std::string::npos);
}

}  // namespace
}  // namespace stem
