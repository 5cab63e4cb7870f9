#include "train/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/rng.h"
#include "io/file.h"
#include "io/json.h"
#include "kernels/cpu/cpu.h"
#include "model/model_files.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

ModelConfig small(FfnVariant variant, bool tied) {
  ModelConfig c;
  c.vocab = 30;
  c.width = 16;
  c.layers = 2;
  c.heads = 2;
  c.kv_heads = 1;
  c.head_width = 8;
  c.ffn = 24;
  c.max_positions = 16;
  c.tied = tied;
  c.variant = variant;
  if (variant != FfnVariant::dense) c.stem_layers = {1};
  return c;
}

// Counting texts: after n comes n + 1, which is easily learnt.
TokenShard counting_shard() {
  TokenShard shard;
  Rng rng(2, 0);
  for (int d = 0; d < 40; ++d) {
    std::vector<std::int32_t> ids(3 + rng.below(12));
    auto next = static_cast<std::int32_t>(1 + rng.below(10));
    for (auto& id : ids) id = next++;
    shard.append(0, ids);
  }
  return shard;
}

TrainOptions options(std::int64_t steps = 8) {
  TrainOptions o;
  o.steps = steps;
  o.warmup = 2;
  o.batch = {48, 16, true, 4};
  return o;
}

struct TrainingRun {
  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, false};
  TokenShard shard = counting_shard();
  Model model;
  Trainer trainer;

  TrainingRun(const ModelConfig& c, const TrainOptions& o, Precision precision = {}, std::uint64_t seed = 5)
      : model(c, precision), trainer(context, model, shard, o) {
    init_weights(model, seed);
    model.refresh_compute(context);
  }
  void steps(std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) trainer.step();
  }
};

bool same_bits(In a, In b) {
  return a.size() == b.size() &&
         (a.size() == 0 ||
          std::memcmp(a.data, b.data, static_cast<std::size_t>(a.size() * size_of(a.dtype))) == 0);
}

class TrainState : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "stem-state-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir = pattern;
  }
  void TearDown() override { fs::remove_all(dir); }
  fs::path dir;
};

TEST_F(TrainState, AResumedRunEndsWithTheSameBits) {
  struct Case {
    FfnVariant variant;
    bool tied;
    DType narrow;
  };
  for (const Case& k :
       {Case{FfnVariant::stem, true, DType::f32}, Case{FfnVariant::stem, false, DType::bf16},
        Case{FfnVariant::stem_additive, false, DType::f32}, Case{FfnVariant::dense, true, DType::f32}}) {
    SCOPED_TRACE(fmt::format("{} tied {} {}", name_of(k.variant), k.tied, name_of(k.narrow)));
    const ModelConfig c = small(k.variant, k.tied);
    const Precision precision{DType::f32, k.narrow};
    TrainingRun whole(c, options(), precision), first(c, options(), precision);
    whole.steps(8);
    first.steps(3);
    fs::remove_all(dir);
    fs::create_directories(dir);
    write_model_files(dir, first.model);
    first.trainer.write_state(dir);

    TrainingRun second(c, options(), precision, 77);  // other weights: all must come from the files
    second.model = read_model_files(dir, {precision, true});
    second.model.refresh_compute(second.context);
    second.trainer.read_state(dir);
    EXPECT_EQ(second.trainer.steps_done(), 3);
    second.steps(5);
    EXPECT_TRUE(same_bits(second.model.weights.flat, whole.model.weights.flat));
    EXPECT_TRUE(same_bits(second.model.compute.flat, whole.model.compute.flat));
    EXPECT_TRUE(same_bits(second.model.table.records(), whole.model.table.records()));
    EXPECT_TRUE(same_bits(second.model.embedding.view, whole.model.embedding.view));
    EXPECT_TRUE(same_bits(second.trainer.optimizer().m.flat, whole.trainer.optimizer().m.flat));
    EXPECT_TRUE(same_bits(second.trainer.optimizer().v.flat, whole.trainer.optimizer().v.flat));
    EXPECT_TRUE(same_bits(second.trainer.optimizer().table.v.view, whole.trainer.optimizer().table.v.view));
    EXPECT_EQ(second.trainer.optimizer().table.last_step, whole.trainer.optimizer().table.last_step);
    EXPECT_EQ(second.trainer.update_counts(), whole.trainer.update_counts());
  }
}

TEST_F(TrainState, AStateOfOtherOptionsOrShapeIsRefused) {
  const ModelConfig c = small(FfnVariant::stem, true);
  TrainingRun run(c, options());
  run.steps(1);
  run.trainer.write_state(dir);
  const auto verdict = [&](const ModelConfig& config, const TrainOptions& o) -> std::string {
    try {
      TrainingRun other(config, o);
      other.trainer.read_state(dir);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kMismatch);
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(verdict(c, options()), "no error");
  TrainOptions o = options();
  o.lr = 1.0;
  EXPECT_EQ(verdict(c, o),
            (dir / "train_state.json").string() +
                ": run.train.lr: expected 1.0 (this run's), found 0.003: a resumed run keeps its "
                "options");
  o = options();
  o.batch.seed = 9;
  EXPECT_NE(verdict(c, o).find("run.train.data_seed: expected 9"), std::string::npos);
  EXPECT_NE(verdict(c, options(9)).find("run.train.steps: expected 9"), std::string::npos);
  ModelConfig wider = c;
  wider.ffn = 32;
  EXPECT_NE(verdict(wider, options()).find("run.config: expected"), std::string::npos);
}

TEST_F(TrainState, ADamagedStateIsAnErrorThatNamesTheFile) {
  TrainingRun run(small(FfnVariant::stem, false), options());
  run.steps(1);
  run.trainer.write_state(dir);
  for (const char* name : {"optimizer.safetensors", "train_state.json"}) {
    const std::string whole = read_file(dir / name);
    for (const std::size_t part : {std::size_t{0}, whole.size() / 2, whole.size() - 2}) {
      write_file_atomic(dir / name, whole.substr(0, part));
      try {
        run.trainer.read_state(dir);
        ADD_FAILURE() << name << " cut to " << part << " was read";
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find(name), std::string::npos);
      }
    }
    write_file_atomic(dir / name, whole);
  }
  Json state = parse_json(read_file(dir / "train_state.json"), "state");
  state["step"] = 1000;  // beyond the run's end
  write_file_atomic(dir / "train_state.json", state.dump());
  EXPECT_THROW(run.trainer.read_state(dir), Error);
}

TEST(Trainer, LearnsToCount) {
  TrainOptions o = options(60);
  o.lr = o.table_lr = 1e-2;
  TrainingRun run(small(FfnVariant::stem, true), o);
  const double first = run.trainer.step().loss;
  run.steps(58);
  const StepReport last = run.trainer.step();
  EXPECT_NEAR(first, std::log(30.0), 0.8);
  EXPECT_LT(last.loss, 0.6 * first);
  EXPECT_EQ(last.step, 60);
  EXPECT_EQ(last.tokens, 48);
  EXPECT_NEAR(last.lr, 1e-3, 1e-9);
  EXPECT_GT(last.norms.table, 0.0);
  EXPECT_LT(evaluate_loss(run.context, run.model, run.shard, o.batch).loss, 0.7 * first);
}

TEST(Trainer, CountsTheUpdatesOfEachRecord) {
  TrainingRun run(small(FfnVariant::stem, true), options());
  run.steps(4);
  EXPECT_EQ(run.trainer.update_counts()[0], 4);   // every batch holds an end of text
  EXPECT_EQ(run.trainer.update_counts()[29], 0);  // no text counts that far
}

TEST(Trainer, ALossThatIsNoNumberNamesStepAndDocuments) {
  TrainingRun run(small(FfnVariant::stem, true), options());
  run.steps(1);
  run.model.weights.final_norm.row<float>(0)[0] = std::numeric_limits<float>::quiet_NaN();
  try {
    run.trainer.step();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_TRUE(std::string(e.what()).starts_with("step 2: the loss is not a number (documents "))
        << e.what();
  }
}

TEST(Evaluate, IsIndependentOfTheBatchSize) {
  TrainingRun run(small(FfnVariant::stem, true), options());
  BatchOptions one = options().batch, all = one;
  one.tokens_per_step = 1;
  all.tokens_per_step = 100000;
  const EvalResult a = evaluate_loss(run.context, run.model, run.shard, one),
                   b = evaluate_loss(run.context, run.model, run.shard, all);
  EXPECT_EQ(a.targets, run.shard.size() - run.shard.document_count());
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_NEAR(a.loss, b.loss, 1e-5);
  EXPECT_DOUBLE_EQ(a.perplexity(), std::exp(a.loss));
}

TEST(Evaluate, AnotherTableOrAnOverlayIsWhatPositionsRead) {
  TrainingRun run(small(FfnVariant::stem, true), options());
  const BatchOptions batch = options().batch;
  const double own = evaluate_loss(run.context, run.model, run.shard, batch).loss;
  const Table zeros = Table::in_memory(run.model.table.shape(), DType::f32);
  EXPECT_NE(evaluate_loss(run.context, run.model, run.shard, batch, &zeros).loss, own);
  Overlay overlay;
  overlay.put(run.model.table, {5, 0, {}, std::vector<float>(24, 2.0f)});
  EXPECT_NE(evaluate_loss(run.context, run.model, run.shard, batch, nullptr, &overlay).loss, own);
  TokenShard lonely;
  lonely.append(0, {});
  EXPECT_THROW(evaluate_loss(run.context, run.model, lonely, batch), Error);
}

}  // namespace
}  // namespace stem
