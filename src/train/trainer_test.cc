#include "train/trainer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/rng.h"
#include "io/file.h"
#include "io/json.h"
#include "io/temporary_folder.h"
#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
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
  Context context;
  TokenShard shard = counting_shard();
  Model model;
  Trainer trainer;

  TrainingRun(const ModelConfig& c, const TrainOptions& o, Precision precision = {}, std::uint64_t seed = 5)
      : context{precision.wide == DType::f64 ? &reference_kernels() : &cpu_kernels(), &workspace, false},
        model(c, precision),
        trainer(context, model, shard, o) {
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
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

TEST_F(TrainState, AResumedRunEndsWithTheSameBits) {
  struct Case {
    FfnVariant variant;
    bool tied;
    DType narrow;
    const char* table_optimizer;
  };
  for (const Case& k :
       {Case{FfnVariant::stem, true, DType::f32, "lazy"}, Case{FfnVariant::stem, false, DType::bf16, "lazy"},
        Case{FfnVariant::stem, false, DType::f32, "exact"},
        Case{FfnVariant::stem_additive, false, DType::f32, "lazy"},
        Case{FfnVariant::dense, true, DType::f32, "lazy"}}) {
    SCOPED_TRACE(
        fmt::format("{} tied {} {} {}", name_of(k.variant), k.tied, name_of(k.narrow), k.table_optimizer));
    const ModelConfig c = small(k.variant, k.tied);
    const Precision precision{DType::f32, k.narrow};
    TrainOptions o = options();
    o.table_optimizer = k.table_optimizer;
    o.table_decay = 0.1;
    TrainingRun whole(c, o, precision), first(c, o, precision);
    whole.steps(8);
    first.steps(3);
    first.trainer.evaluate(first.shard);  // looking at a run does not change it
    fs::remove_all(dir);
    fs::create_directories(dir);
    write_model_files(dir, first.model);
    first.trainer.write_state(dir);

    TrainingRun second(c, o, precision, 77);  // other weights: all must come from the files
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
  o.data_digest = "abc";
  EXPECT_NE(
      verdict(c, o).find("run.data_sha256: expected \"abc\" (this run's), found \"\": a resumed run keeps "
                         "its training text"),
      std::string::npos);
  o = options();
  o.table_optimizer = "exact";
  EXPECT_NE(verdict(c, o).find("run.train.table_optimizer: expected \"exact\""), std::string::npos);
  o = options();
  o.on_spike = "skip";
  EXPECT_EQ(verdict(c, o), "no error");  // how a run goes on is a free choice
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

TEST(Trainer, AStepOfMicroBatchesIsTheStepOfTheWholeBatch) {
  for (const DType wide : {DType::f32, DType::f64}) {
    for (const bool tied : {true, false}) {
      SCOPED_TRACE(fmt::format("{} tied {}", name_of(wide), tied));
      TrainOptions o = options();
      const ModelConfig c = small(FfnVariant::stem, tied);
      TrainingRun whole(c, o, {wide, wide});
      o.accumulate = 4;
      TrainingRun parts(c, o, {wide, wide});
      const double bar = wide == DType::f32 ? 2e-6 : 1e-13;
      const StepReport a = whole.trainer.step(), b = parts.trainer.step();
      EXPECT_NEAR(a.loss, b.loss, bar * a.loss);
      EXPECT_NEAR(a.norms.dense, b.norms.dense, bar * a.norms.dense);
      EXPECT_NEAR(a.norms.table, b.norms.table, bar * a.norms.table);
      EXPECT_EQ(a.targets, b.targets);
      EXPECT_EQ(whole.trainer.update_counts(), parts.trainer.update_counts());
      if (wide == DType::f32) continue;  // one step is nearly the sign of the gradient: f32 may flip a zero's
      const auto close = [&](In x, In y) {
        for (std::int64_t i = 0; i < x.size(); ++i)
          ASSERT_NEAR(x.row<double>(0)[i], y.row<double>(0)[i], 1e-7) << i;
      };
      close(whole.model.weights.flat, parts.model.weights.flat);
      close(whole.model.table.records(), parts.model.table.records());
      if (!tied) close(whole.model.embedding.view, parts.model.embedding.view);
    }
  }
}

TEST(Trainer, TheOrderOfDocumentsInABatchDoesNotMatter) {
  // One step reads the whole shard; every document ends with the same target, the next one's first token.
  TrainOptions o = options();
  o.batch = {counting_shard().size(), 16, true, 1};
  const Precision oracle{DType::f64, DType::f64};
  const ModelConfig c = small(FfnVariant::stem, false);
  TrainingRun a(c, o, oracle);
  o.batch.seed = 2;
  TrainingRun b(c, o, oracle);
  const StepReport x = a.trainer.step(), y = b.trainer.step();
  EXPECT_NEAR(x.loss, y.loss, 1e-13 * x.loss);
  EXPECT_NEAR(x.norms.dense, y.norms.dense, 1e-12 * x.norms.dense);
  EXPECT_NEAR(x.norms.table, y.norms.table, 1e-12 * x.norms.table);
  for (std::int64_t i = 0; i < a.model.table.records().size(); ++i)
    ASSERT_NEAR(a.model.table.records().row<double>(0)[i], b.model.table.records().row<double>(0)[i], 1e-7);
}

TEST(Trainer, ExactRecordsAreCurrentWhereTheyAreRead) {
  TrainOptions o = options(40);
  o.table_optimizer = "exact";
  o.table_decay = 1.0;
  o.batch.tokens_per_step = 12;  // few enough to leave tokens out
  TrainingRun run(small(FfnVariant::stem, true), o);
  run.steps(40);
  const RowState& state = run.trainer.optimizer().table;
  EXPECT_EQ(state.history.updates(), 40);
  const double current = run.trainer.evaluate(run.shard).loss;
  const double raw = evaluate_loss(run.context, run.model, run.shard, o.batch).loss;
  EXPECT_NE(current, raw);
  visit_current(run.context, run.model.table.records(), state, [&](std::int64_t first, In rows) {
    // In place: no row is read before its own block is made.
    std::memcpy(run.model.table.writable_records().slice_rows(first, 1).data, rows.data,
                static_cast<std::size_t>(rows.size() * size_of(rows.dtype)));
  });
  EXPECT_EQ(evaluate_loss(run.context, run.model, run.shard, o.batch).loss, current);
}

TEST(Trainer, FrozenPartsKeepTheirBits) {
  for (const std::string frozen : {"tables", "dense", "model.layers.0.*,embed*"}) {
    SCOPED_TRACE(frozen);
    TrainOptions o = options();
    o.freeze = frozen;
    o.table_decay = 0.5;
    TrainingRun run(small(FfnVariant::stem, false), o), start(small(FfnVariant::stem, false), o);
    run.steps(4);
    EXPECT_EQ(same_bits(run.model.table.records(), start.model.table.records()), frozen == "tables");
    EXPECT_EQ(same_bits(run.model.embedding.view, start.model.embedding.view), frozen != "tables");
    EXPECT_EQ(same_bits(run.model.weights.flat, start.model.weights.flat), frozen == "dense");
    EXPECT_EQ(same_bits(run.model.weights.layers[0].down, start.model.weights.layers[0].down),
              frozen != "tables");
    EXPECT_FALSE(same_bits(run.model.weights.layers[1].down, start.model.weights.layers[1].down) &&
                 frozen != "dense");
  }
}

// Documents begin with token 0: held, its record gets no gradient.
TEST(Trainer, AFixedFirstStateTeachesItsRowNothing) {
  for (const bool fixed : {false, true}) {
    TrainOptions o = options();
    o.fixed_first = fixed;
    TrainingRun run(small(FfnVariant::stem, false), o), start(small(FfnVariant::stem, false), o);
    run.steps(4);
    const auto kept = [&](std::int64_t token) {
      return same_bits(run.model.table.records().slice_rows(token, 1),
                       start.model.table.records().slice_rows(token, 1));
    };
    EXPECT_EQ(kept(0), fixed);
    EXPECT_FALSE(kept(12));
  }
}

// A teacher that has learnt to count.
struct Counter {
  TrainingRun run;

  explicit Counter(Precision precision = {}) : run(small(FfnVariant::dense, true), fast(60), precision, 8) {
    run.steps(60);
  }
  static TrainOptions fast(std::int64_t steps) {
    TrainOptions o = options(steps);
    o.lr = o.table_lr = 1e-2;
    return o;
  }
  Trainer student(TrainingRun& of, const TrainOptions& o) const {
    return {of.context, of.model, of.shard, o, &run.model};
  }
};

TEST(Distillation, TheStudentComesToSayWhatItsTeacherSays) {
  const Counter teacher;
  const TrainOptions o = Counter::fast(60);
  TrainingRun run(small(FfnVariant::stem, false), o);
  Trainer student = teacher.student(run, o);
  const double first = student.step().loss;
  StepReport last;
  while (student.steps_done() < o.steps) last = student.step();
  EXPECT_GT(first, 0.5);
  EXPECT_LT(last.loss, 0.2 * first);
  // Evaluation stays cross entropy, and comes near the teacher's, which is not zero.
  const double of_teacher = evaluate_loss(run.context, teacher.run.model, run.shard, o.batch).loss;
  EXPECT_GT(of_teacher, 0.2);
  EXPECT_NEAR(student.evaluate(run.shard).loss, of_teacher, 0.2 * of_teacher);
}

TEST(Distillation, ATeacherOfItselfTeachesNothing) {
  for (const DType narrow : {DType::f32, DType::bf16}) {
    const Counter teacher({DType::f32, narrow});
    TrainOptions o = Counter::fast(60);
    o.decay = 0;
    TrainingRun run(small(FfnVariant::dense, true), o, {DType::f32, narrow}, 8);
    std::memcpy(run.model.weights.flat.data, teacher.run.model.weights.flat.data,
                static_cast<std::size_t>(run.model.weights.flat.size()) * 4);
    run.model.refresh_compute(run.context);
    Trainer student = teacher.student(run, o);
    const StepReport r = student.step();
    EXPECT_EQ(r.loss, 0.0);
    EXPECT_EQ(r.norms.dense, 0.0);
    EXPECT_TRUE(same_bits(run.model.weights.flat, teacher.run.model.weights.flat));
  }
}

// The way there is learnt besides: streams come closer to the teacher's than by predictions alone.
TEST(Distillation, StreamsAreMatched) {
  const Counter teacher;
  double last[2], first = 0;
  for (const bool matched : {false, true}) {
    TrainOptions o = Counter::fast(60);
    TrainingRun run(small(FfnVariant::stem, true), o);
    o.teacher_streams = matched ? 20 : 1e-9;  // measured, hardly learnt
    Trainer student = teacher.student(run, o);
    first = student.step().stream_loss;
    StepReport r;
    while (student.steps_done() < o.steps) r = student.step();
    last[matched ? 1 : 0] = r.stream_loss;
  }
  EXPECT_LT(last[1], 0.5 * last[0]);
  EXPECT_LT(last[1], 0.5 * first);
}

TEST(Distillation, MicroBatchesMakeTheSameStep) {
  const Precision oracle{DType::f64, DType::f64};
  const Counter teacher(oracle);
  TrainOptions o = options();
  TrainingRun a(small(FfnVariant::stem, true), o, oracle), b(small(FfnVariant::stem, true), o, oracle);
  o.teacher_streams = 3;
  Trainer whole = teacher.student(a, o);
  o.accumulate = 4;
  Trainer parts = teacher.student(b, o);
  const StepReport x = whole.step(), y = parts.step();
  EXPECT_NEAR(x.loss, y.loss, 1e-13 * x.loss);
  EXPECT_GT(x.stream_loss, 0);
  EXPECT_NEAR(x.stream_loss, y.stream_loss, 1e-12 * x.stream_loss);
  EXPECT_NEAR(x.norms.dense, y.norms.dense, 1e-12 * x.norms.dense);
  EXPECT_NEAR(x.norms.table, y.norms.table, 1e-12 * x.norms.table);
}

TEST_F(TrainState, ADistillationGoesOnWithTheSameBitsAndTheSameTeacher) {
  const Precision precision{DType::f32, DType::bf16};
  const Counter teacher(precision);
  const ModelConfig c = small(FfnVariant::stem, true);
  TrainOptions o = options();
  o.freeze = "embed*,norm.weight,self_attn.*,model.layers.0.*";
  o.teacher_uuid = "6f1c";
  TrainingRun a(c, o, precision), b(c, o, precision), start(c, o, precision);
  Trainer whole = teacher.student(a, o), first = teacher.student(b, o);
  while (whole.steps_done() < 8) whole.step();
  while (first.steps_done() < 3) first.step();
  write_model_files(dir, b.model);
  first.write_state(dir);

  TrainingRun other(c, o, precision, 77);
  other.model = read_model_files(dir, {precision, true});
  other.model.refresh_compute(other.context);
  Trainer second = teacher.student(other, o);
  second.read_state(dir);
  while (second.steps_done() < 8) second.step();
  EXPECT_TRUE(same_bits(other.model.weights.flat, a.model.weights.flat));
  EXPECT_TRUE(same_bits(other.model.table.records(), a.model.table.records()));
  EXPECT_TRUE(same_bits(a.model.weights.head, start.model.weights.head));
  EXPECT_FALSE(same_bits(a.model.weights.layers[1].gate, start.model.weights.layers[1].gate));

  o.teacher_uuid = "";
  TrainingRun without(c, o, precision);
  try {
    without.trainer.read_state(dir);
    ADD_FAILURE() << "went on without its teacher";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("run.teacher_uuid: expected \"\" (this run's), found \"6f1c\": a "
                                         "resumed run keeps its teacher"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(TrainState, AStateOfBeforeThereWereTeachersIsRead) {
  TrainingRun run(small(FfnVariant::stem, true), options());
  run.steps(2);
  run.trainer.write_state(dir);
  Json state = parse_json(read_file(dir / "train_state.json"), "state");
  state["run"].erase("teacher_uuid");
  state["run"].erase("train.teacher_streams");
  write_file_atomic(dir / "train_state.json", state.dump());
  TrainingRun other(small(FfnVariant::stem, true), options());
  other.trainer.read_state(dir);
  EXPECT_EQ(other.trainer.steps_done(), 2);
}

TEST(Trainer, AStepWithoutTargetsMakesNoUpdate) {
  TrainingRun run(small(FfnVariant::stem, true), options()), start(small(FfnVariant::stem, true), options());
  run.shard.loss_mask.assign(run.shard.tokens.size(), 0);
  const StepReport report = run.trainer.step();
  EXPECT_EQ(report.targets, 0);
  EXPECT_FALSE(report.updated);
  EXPECT_EQ(run.trainer.steps_done(), 1);
  EXPECT_EQ(run.trainer.optimizer().updates(), 0);
  EXPECT_TRUE(same_bits(run.model.weights.flat, start.model.weights.flat));
}

// A run of 25 steps whose 26th has a loss far off.
struct SpikingRun : TrainingRun {
  explicit SpikingRun(const char* on_spike) : TrainingRun(small(FfnVariant::stem, false), with(on_spike)) {
    steps(25);
  }
  static TrainOptions with(const char* on_spike) {
    TrainOptions o = options(60);
    o.on_spike = on_spike;
    o.table_optimizer = "exact";
    return o;
  }
  void scale(float factor) {
    const Out norm = model.weights.final_norm;
    for (std::int64_t i = 0; i < norm.cols; ++i) norm.row<float>(0)[i] *= factor;
  }
};

TEST(TrainerSpike, ContinueReportsAndUpdates) {
  SpikingRun run("continue");
  run.scale(64);
  const StepReport r = run.trainer.step();
  ASSERT_TRUE(r.spike.has_value());
  EXPECT_EQ(r.spike->action, OnSpike::carry_on);
  EXPECT_GT(r.loss, r.spike->limit);
  EXPECT_FALSE(r.spike->documents.empty());
  EXPECT_TRUE(r.updated);
  EXPECT_EQ(run.trainer.optimizer().updates(), 26);
}

TEST(TrainerSpike, SkipMakesNoUpdateAndAdamsCountWaits) {
  SpikingRun run("skip"), other("skip");
  run.scale(64);
  const StepReport r = run.trainer.step();
  run.scale(1.0f / 64);
  ASSERT_TRUE(r.spike.has_value());
  EXPECT_FALSE(r.updated);
  EXPECT_EQ(run.trainer.steps_done(), 26);
  EXPECT_EQ(run.trainer.optimizer().updates(), 25);
  EXPECT_TRUE(same_bits(run.model.weights.flat, other.model.weights.flat));
  EXPECT_TRUE(same_bits(run.trainer.optimizer().m.flat, other.trainer.optimizer().m.flat));
  EXPECT_FALSE(run.trainer.step().spike.has_value());
  EXPECT_EQ(run.trainer.optimizer().updates(), 26);
}

TEST(TrainerSpike, StopLeavesTheStateBeforeTheStep) {
  SpikingRun run("stop"), other("stop");
  run.scale(64);
  try {
    run.trainer.step();
    ADD_FAILURE() << "no error";
  } catch (const SpikeStop& e) {
    EXPECT_TRUE(std::string(e.what()).starts_with("step 26: the loss ")) << e.what();
    EXPECT_NE(std::string(e.what()).find("(documents "), std::string::npos);
    EXPECT_EQ(e.report().step, 26);
  }
  run.scale(1.0f / 64);
  EXPECT_EQ(run.trainer.steps_done(), 25);
  run.trainer.step();
  other.trainer.step();
  EXPECT_TRUE(same_bits(run.model.weights.flat, other.model.weights.flat));
  EXPECT_TRUE(same_bits(run.model.table.records(), other.model.table.records()));
}

TEST(TrainerSpike, SkippingEndsSomeTime) {
  SpikingRun run("skip");
  run.scale(std::numeric_limits<float>::infinity());
  for (std::int64_t i = 0; i < Trainer::kMostSkips; ++i) EXPECT_FALSE(run.trainer.step().updated);
  EXPECT_THROW(run.trainer.step(), SpikeStop);
}

TEST_F(TrainState, ARollbackGoesOnBehindTheSpike) {
  const auto at_twenty = [&](SpikingRun& run) {
    run.model = read_model_files(dir, {{}, true});
    run.model.refresh_compute(run.context);
  };
  SpikingRun run("rollback");
  write_model_files(dir, run.model);
  run.trainer.write_state(dir);
  run.steps(3);
  run.scale(64);
  const StepReport r = run.trainer.step();
  ASSERT_TRUE(r.spike.has_value());
  EXPECT_EQ(r.spike->action, OnSpike::rollback);
  at_twenty(run);
  run.trainer.roll_back(dir);
  EXPECT_EQ(run.trainer.steps_done(), 29);
  EXPECT_EQ(run.trainer.optimizer().updates(), 25);
  const StepReport next = run.trainer.step();
  EXPECT_EQ(next.step, 30);
  EXPECT_FALSE(next.spike.has_value());
  // A bounded number of times.
  for (std::int64_t i = 1; i < Trainer::kMostRollbacks; ++i) {
    run.scale(64);
    ASSERT_TRUE(run.trainer.step().spike.has_value());
    at_twenty(run);
    run.trainer.roll_back(dir);
  }
  run.scale(64);
  EXPECT_THROW(run.trainer.step(), SpikeStop);
}

TEST_F(TrainState, WhatSpikesAreMeasuredByIsPartOfTheState) {
  SpikingRun run("skip"), second("skip");
  write_model_files(dir, run.model);
  run.trainer.write_state(dir);
  second.steps(10);
  second.model = read_model_files(dir, {{}, true});
  second.trainer.read_state(dir);
  run.scale(64);
  second.scale(64);
  const StepReport a = run.trainer.step(), b = second.trainer.step();
  ASSERT_TRUE(a.spike && b.spike);
  EXPECT_EQ(a.spike->limit, b.spike->limit);
  EXPECT_EQ(a.loss, b.loss);
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
