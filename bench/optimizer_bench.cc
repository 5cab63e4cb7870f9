// Times the table's optimizer at two vocabularies and equal distinct tokens: its cost must grow with the
// batch, not with V. One JSON line: milliseconds a step for each vocabulary, in modes lazy and exact, the
// vocabularies taking turns.
//
//   optimizer_bench [--small 32000] [--large 256000] [--record 1408] [--tokens 2048] [--steps 60]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "bench/kernel_profile.h"
#include "bench/sample.h"
#include "io/json.h"
#include "kernels/cpu/cpu.h"
#include "train/optimizer.h"

namespace stem {
namespace {

struct Options {
  std::int64_t small = 32000, large = 256000, record = 1408, tokens = 2048, steps = 60;
  int threads = 2;
};

/// A table of `vocab` records and its optimizer state. Ids of the smaller vocabulary are spread over the
/// larger one.
class TableRun {
 public:
  TableRun(const Options& o, std::int64_t vocab, bool exact)
      : o_(o),
        vocab_(vocab),
        exact_(exact),
        weights_(DType::f32, vocab, o.record),
        state_(DType::f32, vocab, o.record) {}

  /// One step on `ids` of the smaller vocabulary, ascending; returns its processor time.
  double step(const std::vector<std::int32_t>& ids, In gradient) {
    std::vector<std::int32_t> spread;
    for (const std::int32_t id : ids)
      spread.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(id) * (vocab_ / o_.small)));
    const OptimizerKernels& k = cpu_kernels().optimizer;
    const GroupOptions group{1e-3f, 0.0f, 1.0f};
    const double start = bench::processor_seconds();
    ++updates_;
    if (exact_) {
      std::vector<std::int64_t> from;
      for (const std::int32_t id : spread) from.push_back(state_.last_step[static_cast<std::size_t>(id)]);
      k.adamw_catch_up(weights_, state_.m, state_.v, spread, from, state_.history.view());
    }
    AdamW a;
    a.step = updates_;
    k.adamw_rows(weights_, state_.m, state_.v, gradient.slice_rows(0, static_cast<std::int64_t>(ids.size())),
                 spread, a);
    for (const std::int32_t id : spread) state_.last_step[static_cast<std::size_t>(id)] = updates_;
    if (exact_) state_.history.append(group);
    return bench::processor_seconds() - start;
  }

 private:
  Options o_;
  std::int64_t vocab_;
  bool exact_;
  Tensor weights_;
  RowState state_;
  std::int64_t updates_ = 0;
};

/// The distinct ids of a batch by Zipf's law, ascending.
std::vector<std::int32_t> distinct_ids(const bench::ZipfIds& zipf, std::int64_t tokens, Rng& rng) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < tokens; ++i) ids.push_back(zipf.draw(rng));
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

void run(const Options& o) {
  set_cpu_threads(o.threads);
  const bench::ZipfIds zipf(o.small);
  const Tensor gradient(DType::f32, o.tokens, o.record);
  Rng values(1, 2);
  for (std::int64_t i = 0; i < gradient.view.size(); ++i)
    gradient.view.row<float>(0)[i] = static_cast<float>(2e-3 * values.uniform() - 1e-3);
  Json line{{"record", o.record}, {"tokens", o.tokens}, {"steps", o.steps}, {"threads", o.threads}};
  for (const bool exact : {false, true}) {
    TableRun small(o, o.small, exact), large(o, o.large, exact);
    std::vector<double> seconds[2];
    Rng rng(1, 1);
    std::size_t distinct = 0;
    for (std::int64_t step = 0; step < o.steps; ++step) {
      const auto ids = distinct_ids(zipf, o.tokens, rng);
      distinct += ids.size();
      const double a = small.step(ids, gradient), b = large.step(ids, gradient);
      if (step < o.steps / 2) continue;
      seconds[0].push_back(a);
      seconds[1].push_back(b);
    }
    line[exact ? "exact" : "lazy"] = {{"distinct", distinct / static_cast<std::size_t>(o.steps)},
                                      {std::to_string(o.small), 1e3 * bench::median(seconds[0])},
                                      {std::to_string(o.large), 1e3 * bench::median(seconds[1])},
                                      {"ratio", bench::median(seconds[1]) / bench::median(seconds[0])}};
  }
  std::printf("%s\n", line.dump().c_str());
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  CLI::App app("Times the table's optimizer at two vocabularies; one JSON line");
  stem::Options o;
  app.add_option("--small", o.small, "the smaller vocabulary")->check(CLI::Range(1, 1 << 24));
  app.add_option("--large", o.large, "the larger vocabulary, a multiple of the smaller")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--record", o.record, "values of a record")->check(CLI::Range(1, 1 << 20));
  app.add_option("--tokens", o.tokens, "tokens in a batch")->check(CLI::Range(1, 1 << 20));
  app.add_option("--steps", o.steps, "steps; the first half is not counted")->check(CLI::Range(4, 100000));
  app.add_option("--threads", o.threads, "threads")->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  if (o.large < o.small || o.large % o.small != 0) {
    std::fprintf(stderr, "optimizer_bench: --large: expected a multiple of --small = %lld, found %lld\n",
                 static_cast<long long>(o.small), static_cast<long long>(o.large));
    return 1;
  }
  stem::run(o);
}
