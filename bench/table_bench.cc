// Decoding and prefill with a table on disk against the same table in memory, token by token in turn:
//   table_bench MODEL disk:180M [rounds]
// Prints one JSON line for each bar: {what, ours, peer, ratio}, seconds a token; ratio = ours / peer, the
// median over rounds of the ratio within a round.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "core/clock.h"
#include "core/rng.h"
#include "generate/session.h"
#include "kernels/cpu/cpu.h"
#include "model/model_files.h"

namespace stem {
namespace {

constexpr std::int64_t kPrompt = 512, kAnswer = 64, kWarmIds = 200'000;

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

double timed(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return stem::seconds_since(start);
}

struct Pair {
  std::vector<double> ours, peer, ratio;
  void add(double a, double b) {
    ours.push_back(a);
    peer.push_back(b);
    ratio.push_back(a / b);
  }
  void print(const char* what, const TableStats& s, std::int64_t tokens) const {
    const auto each = [&](std::int64_t n) { return static_cast<double>(n) / static_cast<double>(tokens); };
    std::printf(
        "{\"what\": \"%s\", \"ours\": %.6f, \"peer\": %.6f, \"ratio\": %.4f, \"hit_rate\": %.4f, "
        "\"bytes_per_token\": %.0f, \"stall_us_per_token\": %.2f}\n",
        what, median(ours), median(peer), median(ratio), s.hit_rate(), each(s.bytes_read), each(s.stall_us));
    std::fflush(stdout);
  }
};

struct Bench {
  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, true};
  Rng rng{1, 0};
  Model memory, placed;

  Bench(const char* dir, const char* placement) {
    ReadOptions options;
    options.serving = &context;
    options.table.placement = {TablePlacement::Kind::memory, 0};
    memory = read_model_files(dir, options);
    options.table.placement = placement_from(placement);
    placed = read_model_files(dir, options);
    for (Model* m : {&memory, &placed}) m->refresh_compute(context);
  }
  // p(i) ~ 1/i
  std::vector<std::int32_t> ids(std::int64_t count) {
    const auto vocab = memory.config.vocab;
    std::vector<std::int32_t> made;
    for (std::int64_t i = 0; i < count; ++i) {
      const double rank = std::exp(rng.uniform() * std::log(static_cast<double>(vocab)));
      made.push_back(
          static_cast<std::int32_t>(std::clamp<double>(rank - 1, 0, static_cast<double>(vocab - 1))));
    }
    return made;
  }
  RecordStore* store() { return placed.table.store().get(); }
  TableStats stats() { return store() == nullptr ? TableStats{} : store()->stats(); }
  void warm() {
    if (store() == nullptr) return;
    for (const std::int32_t id : ids(kWarmIds)) {
      RecordLease lease(placed.table.store());
      lease.add({&id, 1});
      lease.wait();
    }
  }
  void cold() {
    if (store() != nullptr) store()->drop();
  }
  // One answer by both, a token at a time in turn.
  void answer(Pair& result) {
    Session a(context, placed, nullptr, kPrompt + kAnswer), b(context, memory, nullptr, kPrompt + kAnswer);
    const auto tokens = ids(kAnswer);
    double ours = 0, peer = 0;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const auto feed = [&](Session& s, double& sum) { sum += timed([&] { s.feed({&tokens[i], 1}); }); };
      if (i % 2 == 0) feed(a, ours);
      feed(b, peer);
      if (i % 2 == 1) feed(a, ours);
    }
    result.add(ours / kAnswer, peer / kAnswer);
  }
  void prompt(Pair& result, int round) {
    Session a(context, placed, nullptr, kPrompt), b(context, memory, nullptr, kPrompt);
    const auto tokens = ids(kPrompt);
    double ours = 0, peer = 0;
    if (round % 2 == 0) ours = timed([&] { a.feed(tokens); });
    peer = timed([&] { b.feed(tokens); });
    if (round % 2 == 1) ours = timed([&] { a.feed(tokens); });
    result.add(ours / kPrompt, peer / kPrompt);
  }
};

void run(const char* dir, const char* placement, int rounds) {
  Bench bench(dir, placement);
  Pair discard;
  bench.prompt(discard, 0);
  bench.answer(discard);
  const auto measure = [&](const char* what, bool cold, std::int64_t tokens,
                           const std::function<void(Pair&, int)>& one) {
    if (!cold) bench.warm();
    Pair pair;
    const TableStats before = bench.stats();
    for (int i = 0; i < rounds; ++i) {
      if (cold) bench.cold();
      one(pair, i);
    }
    pair.print(what, bench.stats().since(before), rounds * tokens);
  };
  const auto answer = [&](Pair& p, int) { bench.answer(p); };
  const auto prompt = [&](Pair& p, int i) { bench.prompt(p, i); };
  measure("decode cold", true, kAnswer, answer);
  measure("prefill cold", true, kPrompt, prompt);
  measure("decode warm", false, kAnswer, answer);
  measure("prefill warm", false, kPrompt, prompt);
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "table_bench MODEL disk:BUDGET|mapped [rounds]\n");
    return 2;
  }
  try {
    stem::set_cpu_threads(0);
    stem::run(argv[1], argv[2], argc > 3 ? std::atoi(argv[3]) : 20);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
