#include "edit/patch_overlay.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "core/error.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

ModelConfig shape(FfnVariant variant = FfnVariant::stem) {
  ModelConfig c;
  c.vocab = 20;
  c.width = 8;
  c.layers = 4;
  c.heads = 2;
  c.kv_heads = 2;
  c.head_width = 4;
  c.ffn = 6;
  c.max_positions = 8;
  c.variant = variant;
  c.stem_layers = {1, 3};
  return c;
}

class PatchMeetsModel : public ::testing::Test {
 protected:
  void SetUp() override {
    model = Model(shape(), {});
    init_weights(model, 3);
    target = {&model, random_uuid(), sha256("tokenizer"), std::nullopt};
    SwapPlan plan;
    plan.rows = {{7, 0, {}, {1, 2, 3, 4, 5, 6}}, {7, 1, {2}, {6, 5, 4, 3, 2, 1}}};
    patch = make_patch(target, plan, {{"subject", "Spain"}}, {{"rule", "auto"}});
    write_patch(path(), patch);
  }
  fs::path path() const { return dir / "x.stempatch"; }
  std::string failure(const PatchTarget& other, ErrorCode code) const {
    Overlay overlay;
    try {
      apply_patch(other, path(), overlay);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_TRUE(overlay.empty());
      return e.what();
    }
    return "no error";
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  Model model;
  PatchTarget target;
  PatchFile patch;
};

TEST_F(PatchMeetsModel, RowsGoToTheStemLayersOfTheirModelLayers) {
  EXPECT_EQ(patch.rows[0].layer, 1);
  EXPECT_EQ(patch.rows[1].layer, 3);
  Overlay overlay;
  EXPECT_EQ(apply_patch(target, path(), overlay).id, patch.id);
  ASSERT_EQ(overlay.size(), 2u);
  EXPECT_EQ(*overlay.find(7, 0, {}), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(overlay.find(7, 1, {}), nullptr);
  EXPECT_EQ(*overlay.find(7, 1, std::vector{2}), (std::vector<float>{6, 5, 4, 3, 2, 1}));
}

TEST_F(PatchMeetsModel, AModelWithoutATableIsRefused) {
  const Model mixture(shape(FfnVariant::moe), {});
  PatchTarget other = target;
  other.model = &mixture;
  EXPECT_EQ(failure(other, ErrorCode::kUsage),
            path().string() + ": this model has no STEM table (ffn_variant moe): a patch replaces nothing");
}

TEST_F(PatchMeetsModel, AddsSumOnTopOfWhatIsInForce) {
  patch.mode = PatchMode::add;
  write_patch(path(), patch);
  Overlay overlay;
  overlay.put(model.table, {7, 0, {}, {10, 10, 10, 10, 10, 10}});
  apply_patch(target, path(), overlay);
  EXPECT_EQ(*overlay.find(7, 0, {}), (std::vector<float>{11, 12, 13, 14, 15, 16}));
}

TEST_F(PatchMeetsModel, AnotherModelOrTokenizerIsRefused) {
  PatchTarget other = target;
  other.uuid = random_uuid();
  EXPECT_NE(failure(other, ErrorCode::kMismatch).find("made for another model"), std::string::npos);
  other = target;
  other.tokenizer = sha256("another");
  EXPECT_NE(failure(other, ErrorCode::kMismatch).find("tokenizer SHA-256: expected"), std::string::npos);
}

TEST_F(PatchMeetsModel, ABaseRowThatHasChangedIsRefused) {
  model.table.writable_records().row<float>(7)[2] += 1.0f;
  EXPECT_NE(failure(target, ErrorCode::kIntegrity).find("base row (token 7, layer 1): SHA-256 expected"),
            std::string::npos);
  model.table.writable_records().row<float>(7)[2] -= 1.0f;
}

TEST_F(PatchMeetsModel, OtherRowsOfTheBaseMayChange) {
  model.table.writable_records().row<float>(8)[2] += 1.0f;
  EXPECT_EQ(failure(target, ErrorCode::kIntegrity), "no error");
}

TEST_F(PatchMeetsModel, AnAbsentTablesRowsAreZeros) {
  Model present(shape(FfnVariant::stem_additive), {}), absent(shape(FfnVariant::stem_additive), {}, false);
  init_weights(present, 3);
  SwapPlan plan;
  plan.rows = {{7, 0, {}, {1, 2, 3, 4, 5, 6}}};
  PatchTarget a = target, b = target;
  a.model = &present;
  b.model = &absent;
  EXPECT_EQ(make_patch(a, plan, Json::object(), Json::object()).rows[0].base_leaf,
            make_patch(b, plan, Json::object(), Json::object()).rows[0].base_leaf);
}

}  // namespace
}  // namespace stem
