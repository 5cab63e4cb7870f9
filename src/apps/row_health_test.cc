#include "apps/row_health.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/rng.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

ModelConfig small(FfnVariant variant = FfnVariant::stem) {
  ModelConfig c;
  c.vocab = 150;  // more than two blocks of records
  c.width = 16;
  c.layers = 3;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_width = 8;
  c.ffn = 24;
  c.max_positions = 16;
  c.tied = false;
  c.variant = variant;
  c.stem_layers = {1, 2};
  return c;
}

class RowHealth : public ::testing::Test {
 protected:
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  Runtime runtime;
  Context context = runtime.training();
};

TEST_F(RowHealth, RecordsDrawnAgainAreThoseOfInitTable) {
  for (const FfnVariant variant : {FfnVariant::stem, FfnVariant::stem_additive}) {
    const ModelConfig c = small(variant);
    Model model(c, {});
    init_weights(model, 42);
    write_model_files(dir, model);
    const InitialRecords drawn(c, 42), stored(c, dir);
    std::vector<float> record(static_cast<std::size_t>(c.table_shape().record()));
    for (std::int64_t token = 0; token < c.vocab; ++token) {
      for (const InitialRecords* records : {&drawn, &stored}) {
        std::fill(record.begin(), record.end(), 9.0f);
        records->read(token, record);
        ASSERT_EQ(std::memcmp(record.data(), model.table.record(token), record.size() * sizeof(float)), 0)
            << token;
      }
    }
  }
}

TEST_F(RowHealth, NormAndDistanceOfEveryRecord) {
  const ModelConfig c = small();
  Model model(c, {});
  init_weights(model, 42);
  const Optimizer optimizer(model);
  TokenStats stats;
  stats.updates.assign(150, 0);
  stats.updates[7] = 3;
  Out records = model.table.writable_records();
  for (std::int64_t i = 0; i < records.cols; ++i) records.row<float>(7)[i] += 0.5f;
  const InitialRecords initial(c, 42);
  measure_rows(context, model, optimizer, &initial, true, stats);
  ASSERT_EQ(stats.norm.size(), 150u);
  EXPECT_NEAR(stats.distance[7], 0.5 * std::sqrt(48.0), 1e-5);
  EXPECT_EQ(stats.distance[8], 0.0f);
  double squared = 0;
  for (std::int64_t i = 0; i < records.cols; ++i)
    squared += std::pow(static_cast<double>(records.row<float>(149)[i]), 2);
  EXPECT_NEAR(stats.norm[149], std::sqrt(squared), 1e-6);
  measure_rows(context, model, optimizer, &initial, false, stats);
  EXPECT_EQ(stats.distance[8], 0.0f);
  TokenStats without;
  without.updates.assign(150, 0);
  measure_rows(context, model, optimizer, nullptr, true, without);
  EXPECT_EQ(without.norm, stats.norm);
  EXPECT_TRUE(without.distance.empty());
}

TEST_F(RowHealth, AnExportHoldsRecordsAsAllUpdatesHaveMadeThem) {
  Model model(small(), {});
  init_weights(model, 42);
  Optimizer optimizer(model, TableOptimizer::exact);
  Gradients gradients;
  Rng rng(3, 0);
  const GroupOptions group{1e-2f, 0.1f, 0.0f};
  for (int step = 0; step < 12; ++step) {
    Workspace::Scope scope(*context.workspace);
    const std::vector<std::int32_t> tokens{static_cast<std::int32_t>(rng.below(150)), 3 * step};
    const TokenGroups groups(tokens);
    optimizer.catch_up(context, model, groups.tokens());
    prepare_gradients(context, model, groups, gradients);
    for (const Out view : {gradients.rows, gradients.embedding}) {
      for (std::int64_t i = 0; i < view.size(); ++i) view.row<float>(0)[i] = static_cast<float>(rng.normal());
    }
    optimizer.update(context, model, gradients, groups.tokens(), optimizer.norms(context, model, gradients),
                     group, group);
  }
  write_model_files(dir, model);
  const std::string raw_table = read_file(dir / kTableFile), raw_weights = read_file(dir / kWeightsFile);
  write_current_rows(dir, context, model, optimizer);
  EXPECT_NE(read_file(dir / kTableFile), raw_table);
  EXPECT_NE(read_file(dir / kWeightsFile), raw_weights);
  std::vector<std::int32_t> all(150);
  for (std::int32_t t = 0; t < 150; ++t) all[static_cast<std::size_t>(t)] = t;
  optimizer.catch_up(context, model, all);  // the same in memory
  const std::string table = read_file(dir / kTableFile), weights = read_file(dir / kWeightsFile);
  write_model_files(dir, model);
  EXPECT_EQ(read_file(dir / kTableFile), table);
  EXPECT_EQ(read_file(dir / kWeightsFile), weights);
}

}  // namespace
}  // namespace stem
