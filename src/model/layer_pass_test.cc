// Layer after layer, in place, is the forward pass: the same bits.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <ostream>

#include "kernels/cpu/cpu.h"
#include "model/forward.h"
#include "model/tiny_config.h"

namespace stem {
namespace {

struct Setting {
  FfnVariant variant;
  DType narrow;
};
void PrintTo(const Setting& s, std::ostream* out) {
  *out << name_of(s.variant) << ' ' << name_of(s.narrow);
}

class LayerPass : public ::testing::TestWithParam<Setting> {
 protected:
  LayerPass() : model(tiny_config(GetParam().variant), {DType::f32, GetParam().narrow}) {
    init_weights(model, 4);
    model.refresh_compute(ctx);
    std::iota(tokens.begin(), tokens.end(), 3);
    for (std::int32_t i = 0; i < 12; ++i) positions[static_cast<std::size_t>(i)] = i % 6;
  }
  TokenBatch batch() const { return {tokens, positions, segments, {}}; }
  static void expect_same(In got, In want) {
    ASSERT_EQ(got.rows, want.rows);
    for (std::int64_t n = 0; n < want.rows; ++n)
      EXPECT_EQ(std::memcmp(got.row<float>(n), want.row<float>(n), static_cast<std::size_t>(want.cols) * 4),
                0)
          << "position " << n;
  }

  Workspace workspace;
  Context ctx{&cpu_kernels(), &workspace, false};
  Model model;
  std::vector<std::int32_t> tokens = std::vector<std::int32_t>(12), positions = tokens;
  std::vector<Segment> segments{{0, 6, 0, 6}, {6, 6, 6, 6}};
};

TEST_P(LayerPass, OneAfterTheOtherInPlaceIsTheWhole) {
  const RowPlan rows(model.table, batch());
  Activations whole = allocate_activations(ctx, model, 12);
  forward_hidden(ctx, model, batch(), rows, whole);
  LayerSaved s = allocate_layer_pass(ctx, model, 12);
  s.x_mid = s.x_in;
  forward_embedding(ctx, model, batch(), s.x_in);
  for (std::int64_t l = 0; l < model.config.layers; ++l) {
    forward_attention(ctx, model, l, batch(), s);
    forward_ffn(ctx, model, l, rows, s, s.x_mid);
  }
  expect_same(s.x_in, whole.x);
}

INSTANTIATE_TEST_SUITE_P(All, LayerPass,
                         ::testing::Values(Setting{FfnVariant::dense, DType::f32},
                                           Setting{FfnVariant::stem, DType::f32},
                                           Setting{FfnVariant::stem, DType::bf16},
                                           Setting{FfnVariant::stem_additive, DType::bf16}));

}  // namespace
}  // namespace stem
