#include "tables/disk_rates.h"

#include <algorithm>
#include <chrono>

#include "core/clock.h"
#include "core/rng.h"

namespace stem {
namespace {

constexpr int kAlone = 64, kTogether = 256;

}  // namespace

DiskRates measure_disk(const RecordFile& file, const ReadQueueOptions& options) {
  // A store that keeps one record: every other one is read from the file.
  const auto store =
      std::make_shared<RecordStore>(file, static_cast<std::int64_t>(file.record_bytes), options);
  DiskRates rates;
  rates.read_path = store->queue().description();
  Rng rng(static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()), 0);
  const auto draw = [&] {
    return static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(file.records)));
  };
  const auto read = [&](const std::vector<std::int32_t>& tokens) {
    const auto start = std::chrono::steady_clock::now();
    RecordLease lease(store);
    lease.add(tokens);
    const auto failures = lease.wait();
    if (!failures.empty()) throw Error(failures.front().code, failures.front().message);
    return seconds_since(start);
  };
  std::vector<double> alone;
  for (int i = 0; i < kAlone; ++i) {
    store->drop();
    alone.push_back(read({draw()}));
  }
  std::sort(alone.begin(), alone.end());
  rates.record_s = alone[alone.size() / 2];
  std::vector<std::int32_t> many;
  for (int i = 0; i < kTogether; ++i) many.push_back(draw());
  std::sort(many.begin(), many.end());
  many.erase(std::unique(many.begin(), many.end()), many.end());
  store->drop();
  rates.records_per_s = static_cast<double>(many.size()) / read(many);
  return rates;
}

}  // namespace stem
