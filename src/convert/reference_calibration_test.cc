#include "convert/reference_calibration.h"

#include <gtest/gtest.h>

#include <cmath>

#include "convert/random_text.h"
#include "kernels/cpu/cpu.h"
#include "ops/linear.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr std::int64_t kSequences = 12;

class ReferenceCalibrationTest : public ::testing::Test {
 protected:
  ReferenceCalibrationTest() : model(random_text_config(FfnVariant::stem_additive), {}) {
    init_weights(model, 5);
    for (std::int64_t t = 0; t < 19; ++t) {
      for (std::int64_t i = 0; i < 80; ++i)
        model.table.writable_records().row<float>(t)[i] = 0.01f * static_cast<float>((7 * t + 3 * i) % 11);
    }
  }
  // The mean of the up-projection and the row over the occurrences of a token, straight from a whole pass a
  // sequence.
  std::vector<double> direct_mean(std::int32_t token, std::int64_t layer) {
    const auto s = static_cast<std::size_t>(layer);
    std::vector<double> sum(40, 0.0);
    std::int64_t count = 0;
    ResidualStream stream(ctx, model, text);
    for (std::int64_t l = 0; l < layer; ++l) stream.advance(ctx, model, l);
    const ResidualStream::Pass pass(ctx, model, stream);
    for (std::int64_t b = 0; b < text.batches(); ++b) {
      const TokenBatch batch = text.batch(b);
      LayerSaved saved = pass.at(b);
      const Workspace::Scope scope(workspace);
      forward_attention(ctx, model, layer, batch, saved);
      forward_ffn(ctx, model, layer, RowPlan(model.table, batch), saved, {});
      for (std::int64_t n = 0; n < batch.size(); ++n) {
        if (batch.tokens[static_cast<std::size_t>(n)] != token) continue;
        ++count;
        for (std::int64_t f = 0; f < 40; ++f) {
          for (std::int64_t d = 0; d < 24; ++d)
            sum[static_cast<std::size_t>(f)] +=
                static_cast<double>(saved.normed_ffn.row<float>(n)[d]) *
                static_cast<double>(model.weights.layers[s].up.row<float>(f)[d]);
        }
      }
    }
    std::vector<float> row(40);
    model.table.read_row(token, model.config.stem_index(layer), row);
    for (std::size_t f = 0; f < 40; ++f)
      sum[f] = sum[f] / static_cast<double>(count) + static_cast<double>(row[f]);
    return sum;
  }

  Workspace workspace;
  Context ctx{&cpu_kernels(), &workspace, false};
  Model model;
  Rng rng{3, 1};
  CalibrationText text = random_text(rng, kSequences, 5);
};

TEST_F(ReferenceCalibrationTest, WithoutAPriorTheyAreTheMeans) {
  const ReferenceCalibration calibration(ctx, model, text);
  const std::vector<std::int32_t> asked{4, 0, 17};
  const Tensor records(DType::f32, 3, 80);
  calibration.records(ctx, asked, 0.0, records);
  for (std::int64_t i = 0; i < 3; ++i) {
    for (const std::int64_t s : {0, 1}) {
      const auto mean = direct_mean(asked[static_cast<std::size_t>(i)], s == 0 ? 0 : 2);
      for (std::int64_t f = 0; f < 40; ++f)
        EXPECT_NEAR(records.view.row<float>(i)[s * 40 + f], mean[static_cast<std::size_t>(f)], 2e-5);
    }
  }
}

TEST_F(ReferenceCalibrationTest, AGuessFromTheEmbeddingStandsInForOccurrences) {
  std::vector<std::int64_t> seen;
  const ReferenceCalibration calibration(ctx, model, text, [&](std::int64_t l) { seen.push_back(l); });
  EXPECT_EQ(seen, (std::vector<std::int64_t>{0, 1, 2}));
  const std::vector<std::int32_t> asked{4, 18};
  Tensor means(DType::f32, 2, 80), mixed(DType::f32, 2, 80), guess(DType::f32, 2, 80);
  calibration.records(ctx, asked, 0.0, means);
  calibration.records(ctx, asked, 4.0, mixed);
  calibration.records(ctx, asked, 1e9, guess);
  const auto count = static_cast<double>(text.counts()[static_cast<std::size_t>(text.place(4))]);
  for (std::int64_t i = 0; i < 80; ++i) {
    const double mean = means.view.row<float>(0)[i], prior = guess.view.row<float>(0)[i];
    EXPECT_NEAR(mixed.view.row<float>(0)[i], (count * mean + 4 * prior) / (count + 4), 2e-5);
    // A token that never occurs has nothing else, whatever it counts.
    EXPECT_NEAR(mixed.view.row<float>(1)[i], guess.view.row<float>(1)[i], 1e-6);
    EXPECT_TRUE(std::isfinite(mixed.view.row<float>(1)[i]));
  }
}

}  // namespace
}  // namespace stem
