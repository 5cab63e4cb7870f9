// The same logits, bit for bit, wherever the table lies and however it is read.
#include <gtest/gtest.h>

#include <cstring>

#include "core/rng.h"
#include "generate/session.h"
#include "io/temporary_folder.h"
#include "kernels/cpu/cpu.h"
#include "model/model_files.h"
#include "tables/record_error.h"

namespace stem {
namespace {
namespace fs = std::filesystem;
using Kind = TablePlacement::Kind;

ModelConfig shape(FfnVariant variant) {
  ModelConfig c;
  c.vocab = 300;
  c.width = 16;
  c.layers = 4;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_width = 8;
  c.ffn = 40;
  c.max_positions = 64;
  c.variant = variant;
  c.stem_layers = {1, 3};
  return c;
}

class Placements : public ::testing::Test {
 protected:
  void write(FfnVariant variant) {
    Model model(shape(variant), {});
    init_weights(model, 4);
    init_table(model.table.writable_records(), shape(FfnVariant::stem), 4);
    write_model_files(dir, model, {.dtype = DType::bf16});
  }
  Model open(const TablePlacement& placement, ReadPath path = ReadPath::automatic) {
    ReadOptions options;
    options.table.placement = placement;
    options.table.read.path = path;
    Model model = read_model_files(dir, options);
    model.refresh_compute(context);
    return model;
  }
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, true};
};

TEST_F(Placements, GiveTheSameLogitsUnderARandomSchedule) {
  for (const FfnVariant variant : {FfnVariant::stem, FfnVariant::stem_gate, FfnVariant::stem_additive}) {
    write(variant);
    std::vector<Model> models;
    models.push_back(open({Kind::memory, 0}));
    models.push_back(open({Kind::mapped, 0}));
    for (const ReadPath path : {ReadPath::automatic, ReadPath::threads}) {
      models.push_back(open({Kind::disk, 160}, path));  // one record
      models.push_back(open({Kind::disk, 20 * 192}, path));
    }
    Overlay overlay;
    overlay.put(models[0].table, {3, 1, {}, std::vector<float>(40, 0.5f)});
    std::vector<Session> sessions;
    for (const Model& m : models) sessions.emplace_back(context, m, &overlay);
    Rng rng(8, 0);
    for (int step = 0; step < 60; ++step) {
      const auto past = static_cast<std::int64_t>(sessions[0].tokens().size());
      std::vector<std::int32_t> tokens(1 + rng.below(12));
      for (std::int32_t& t : tokens) t = static_cast<std::int32_t>(rng.uniform() * rng.uniform() * 300);
      if (past + static_cast<std::int64_t>(tokens.size()) > 64 || rng.below(10) == 0) {
        const auto keep = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(past) + 1) / 2);
        for (Session& s : sessions) s.rewind(keep);
      }
      std::vector<float> first;
      for (std::size_t i = 0; i < sessions.size(); ++i) {
        if (rng.below(3) == 0) models[i].table.prefetch(tokens);
        const auto logits = sessions[i].feed(tokens);
        if (i == 0) first.assign(logits.begin(), logits.end());
        ASSERT_EQ(std::memcmp(first.data(), logits.data(), logits.size_bytes()), 0)
            << "model " << i << ", step " << step;
      }
    }
    EXPECT_GT(models[3].table.store()->stats().hits, 0);
    EXPECT_GT(models[3].table.store()->stats().prefetched_used, 0);
  }
}

TEST_F(Placements, ACutTableFailsTheTextThatNeedsIt) {
  for (const TablePlacement placement :
       {TablePlacement{Kind::mapped, 0}, TablePlacement{Kind::disk, 1 << 20}}) {
    write(FfnVariant::stem);
    const Model model = open(placement), whole = open({Kind::memory, 0});
    fs::resize_file(dir / kTableFile, fs::file_size(dir / kTableFile) - 160 * 100);  // tokens 200 and up
    Session session(context, model), reference(context, whole);
    session.feed(std::vector<std::int32_t>{5, 6});
    reference.feed(std::vector<std::int32_t>{5, 6});
    try {
      session.feed(std::vector<std::int32_t>{7, 250, 8});
      ADD_FAILURE() << placement_text(placement);
    } catch (const RecordError& e) {
      EXPECT_EQ(e.tokens(), std::vector<std::int32_t>{250});
      EXPECT_EQ(e.positions(), std::vector<std::int64_t>{1});
    }
    session.rewind(2);
    const auto a = session.feed(std::vector<std::int32_t>{9, 199});
    const auto b = reference.feed(std::vector<std::int32_t>{9, 199});
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size_bytes()), 0);
  }
}

}  // namespace
}  // namespace stem
