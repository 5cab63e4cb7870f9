// Times training steps of this engine at the shapes of configs/small.toml and medium.toml on Zipf-distributed
// token ids, and prints one JSON line. bench/train_vs_torch runs it against PyTorch.
//
//   train_bench [--config small] [--dtype bf16] [--steps 12] [--threads 2] [--dense] [--vocab N]
//   [--touch-all] [--profile]
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "bench/kernel_profile.h"
#include "bench/sample.h"
#include "io/json.h"
#include "kernels/cpu/cpu.h"
#include "model/model.h"
#include "train/trainer.h"

namespace stem {
namespace {

struct Options {
  std::string config = "small", dtype = "bf16";
  std::int64_t steps = 12, vocab = 0;
  int threads = 2;
  bool dense = false, touch_all = false, profile = false;
};

struct Shape {
  ModelConfig model;
  std::int64_t sequence = 0, sequences = 0;
};

Shape shape_of(const Options& o) {
  Shape s;
  ModelConfig& c = s.model;
  c.tied = false;
  if (o.config == "small") {
    c.vocab = 8192, c.width = 256, c.layers = 6, c.heads = c.kv_heads = 4, c.ffn = 704;
    c.stem_layers = {1, 4};
    s.sequence = 256, s.sequences = 8;
  } else if (o.config == "medium") {
    c.vocab = 32000, c.width = 512, c.layers = 8, c.heads = 8, c.kv_heads = 4, c.ffn = 1408;
    c.stem_layers = {1, 4, 7};
    s.sequence = 512, s.sequences = 4;
  } else {
    fail(ErrorCode::kUsage, "--config: expected small or medium, found \"{}\"", o.config);
  }
  c.head_width = c.width / c.heads;
  c.max_positions = s.sequence;
  if (o.vocab > 0) c.vocab = o.vocab;
  if (o.dense) {
    c.variant = FfnVariant::dense;
    c.stem_layers.clear();
  }
  return s;
}

/// One document: `counted` ids 0, 1, 2, … and then `count` by Zipf's law, p(i) ∝ 1/(i + 1).
TokenShard token_stream(std::int64_t counted, std::int64_t count, std::int64_t vocab) {
  TokenShard shard;
  for (std::int64_t i = 0; i < counted; ++i) shard.tokens.push_back(static_cast<std::int32_t>(i % vocab));
  const bench::ZipfIds ids(vocab);
  Rng rng(1, 1);
  for (std::int64_t i = 0; i < count; ++i) shard.tokens.push_back(ids.draw(rng));
  shard.documents.push_back(counted + count);
  return shard;
}

void run(const Options& o) {
  set_cpu_threads(o.threads);
  const Shape shape = shape_of(o);
  const std::int64_t tokens = shape.sequence * shape.sequences;
  Model model(shape.model, {DType::f32, o.dtype == "bf16" ? DType::bf16 : DType::f32});
  const Kernels kernels = bench::profiled(cpu_kernels());
  Workspace workspace;
  const Context context{&kernels, &workspace, false};
  init_weights(model, 1);
  model.refresh_compute(context);
  TrainOptions options;
  options.steps = o.steps + 1;
  options.batch.tokens_per_step = tokens;
  options.batch.max_sequence = shape.sequence;
  options.batch.document_mask = false;
  options.lr = options.table_lr = 1e-3;
  options.warmup = 0;
  // Every row once, before the timed steps: what a long run's memory looks like.
  const std::int64_t first = o.touch_all ? (shape.model.vocab + tokens - 1) / tokens : 0;
  const TokenShard shard = token_stream(first * tokens, tokens * (o.steps + 1) + 1, shape.model.vocab);
  options.steps += first;
  Trainer trainer(context, model, shard, options);
  std::vector<double> seconds, processor;
  const std::int64_t warm = first + std::max<std::int64_t>(2, o.steps / 4);
  double loss = 0;
  for (std::int64_t i = 0; i < first + o.steps; ++i) {
    if (i == warm) bench::reset_profile();
    const double before = bench::processor_seconds();
    const StepReport r = trainer.step();
    loss = r.loss;
    if (i < warm) continue;
    seconds.push_back(r.seconds);
    processor.push_back(bench::processor_seconds() - before);
  }
  double all = 0;
  for (const double s : processor) all += s;
  const auto share_of = [&](std::initializer_list<std::size_t> kernel) {
    double sum = 0;
    for (const std::size_t k : kernel) sum += bench::kernel_times[k].seconds;
    return sum / all;
  };
  if (o.profile) {
    std::vector<bench::KernelTime> times(bench::kernel_times.begin(), bench::kernel_times.end());
    std::sort(times.begin(), times.end(), [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
    double rest = all;
    for (const bench::KernelTime& t : times) {
      rest -= t.seconds;
      if (t.calls > 0)
        std::fprintf(stderr, "%-26s %6.1f %%  %8.2f ms a step  %6.1f calls\n", t.name.c_str(),
                     100 * t.seconds / all, 1e3 * t.seconds / static_cast<double>(seconds.size()),
                     static_cast<double>(t.calls) / static_cast<double>(seconds.size()));
    }
    std::fprintf(stderr, "%-26s %6.1f %%  %8.2f ms a step\n", "outside kernels", 100 * rest / all,
                 1e3 * rest / static_cast<double>(seconds.size()));
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const Accounting counted = account(shape.model);
  const Json line{
      {"config", o.config},
      {"dtype", o.dtype},
      {"dense", o.dense},
      {"vocab", shape.model.vocab},
      {"threads", o.threads},
      {"tokens_per_s", static_cast<double>(tokens) / bench::median(seconds)},
      {"step_ms", 1e3 * bench::median(seconds)},
      {"processor_ms", 1e3 * bench::median(processor)},
      {"gemm_share", share_of({0, 22, 23, 24})},
      {"rows_optimizer_ms", 1e3 * bench::kernel_times[19].seconds / static_cast<double>(seconds.size())},
      {"flops_per_token", 3 * counted.flops_per_token},
      {"gflop_per_s",
       3 * counted.flops_per_token * static_cast<double>(tokens) / bench::median(seconds) * 1e-9},
      {"peak_rss_mb", usage.ru_maxrss / 1024},
      {"loss", loss}};
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  CLI::App app("Times training steps on Zipf-distributed token ids; one JSON line");
  stem::Options o;
  app.add_option("--config", o.config, "small or medium");
  app.add_option("--dtype", o.dtype, "bf16 or f32");
  app.add_option("--steps", o.steps, "steps; the first quarter is not timed")->check(CLI::Range(4, 100000));
  app.add_option("--threads", o.threads, "threads")->check(CLI::Range(1, 1024));
  app.add_option("--vocab", o.vocab, "another vocabulary than the configuration's");
  app.add_flag("--dense", o.dense, "no STEM layer");
  app.add_flag("--touch-all", o.touch_all, "read and update every row once first");
  app.add_flag("--profile", o.profile, "processor time of every kernel on stderr");
  CLI11_PARSE(app, argc, argv);
  try {
    stem::run(o);
  } catch (const stem::Error& e) {
    std::fprintf(stderr, "train_bench: %s\n", e.what());
    return 1;
  }
}
