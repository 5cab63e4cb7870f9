#include "tables/record_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <list>
#include <set>

#include "core/rng.h"
#include "io/file.h"
#include "io/temporary_folder.h"
#include "tables/disk_rates.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

constexpr std::int64_t kTokens = 90;
constexpr std::uint64_t kFirst = 4096;

char value_at(std::int32_t token, std::uint64_t i) {
  return static_cast<char>(7 * token + static_cast<std::int32_t>(i) * 3 + 1);
}

class Store : public ::testing::TestWithParam<ReadPath> {
 protected:
  void SetUp() override {
    if (GetParam() == ReadPath::uring) {
      write(100);
      try {
        ReadQueue::open(path(), {.path = ReadPath::uring});
      } catch (const Error& e) {
        GTEST_SKIP() << e.what();
      }
    }
  }
  fs::path path() const { return dir / "records"; }
  void write(std::uint64_t record_bytes) {
    record = record_bytes;
    std::string content(kFirst, '\0');
    for (std::int32_t t = 0; t < kTokens; ++t) {
      for (std::uint64_t i = 0; i < record; ++i) content.push_back(value_at(t, i));
    }
    FileWriter file(path());
    file.write(content);
    file.close();
  }
  RecordFile file() const { return {path(), kFirst, record, kTokens}; }
  std::shared_ptr<RecordStore> open(std::int64_t budget, RowVerifier verifier = {}, ReadFunction read = {}) {
    return std::make_shared<RecordStore>(
        file(), budget, ReadQueueOptions{.path = GetParam(), .threads = 3, .read = std::move(read)},
        std::move(verifier));
  }
  // Holds the records and checks their bytes.
  void expect_records(const std::shared_ptr<RecordStore>& store, const std::vector<std::int32_t>& tokens) {
    RecordLease lease(store);
    lease.add(tokens);
    ASSERT_TRUE(lease.wait().empty());
    for (const std::int32_t t : tokens) {
      const auto* const data = static_cast<const char*>(lease.data(t));
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(data) % 64, 0u);
      for (std::uint64_t i = 0; i < record; ++i) ASSERT_EQ(data[i], value_at(t, i)) << t << ", " << i;
    }
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  std::uint64_t record = 0;
};

TEST_P(Store, ReadsRecordsOfEverySize) {
  for (const std::uint64_t bytes : {2u, 96u, 4096u, 6144u, 5000u, 30720u}) {
    write(bytes);
    for (const std::int64_t budget : {1, 10, 200}) {
      const auto store = open(static_cast<std::int64_t>((bytes + 63) / 64 * 64) * budget);
      EXPECT_EQ(store->capacity(), budget);
      expect_records(store, {0, 89, 44, 44, 1});
      std::vector<std::int32_t> all(kTokens);
      for (std::int32_t t = 0; t < kTokens; ++t) all[static_cast<std::size_t>(t)] = t;
      expect_records(store, all);
      EXPECT_EQ(store->kept(), std::min<std::int64_t>(budget, kTokens));
      EXPECT_EQ(store->stats().asked, 95);
      EXPECT_EQ(store->stats().distinct, 94);
      EXPECT_EQ(store->stats().reads, store->stats().misses);
      EXPECT_GE(store->stats().bytes_read, store->stats().reads * static_cast<std::int64_t>(bytes));
    }
  }
}

TEST_P(Store, WhatIsKeptIsNotReadAgain) {
  write(5000);
  const auto store = open(20 * 5056);
  expect_records(store, {1, 2, 3});
  expect_records(store, {3, 2, 3, 4});
  const TableStats& s = store->stats();
  EXPECT_EQ(s.hits, 2);
  EXPECT_EQ(s.misses, 4);
  EXPECT_EQ(s.reads, 4);
  EXPECT_DOUBLE_EQ(s.hit_rate(), 2.0 / 6.0);
  const TableStats before = s;
  store->drop();
  EXPECT_EQ(store->kept(), 0);
  expect_records(store, {3});
  EXPECT_EQ(s.since(before).misses, 1);
  EXPECT_EQ(s.since(before).asked, 1);
}

TEST_P(Store, HeldRecordsStayWhereTheyAre) {
  write(5000);
  const auto store = open(5056);  // room for one
  RecordLease first(store);
  const std::vector<std::int32_t> tokens{5, 6, 7};
  first.add(tokens);
  ASSERT_TRUE(first.wait().empty());
  const void* const at = first.data(6);
  for (std::int32_t t = 20; t < 60; ++t) expect_records(store, {t, t + 1});
  EXPECT_EQ(first.data(6), at);
  EXPECT_EQ(static_cast<const char*>(at)[10], value_at(6, 10));
  first.add(std::vector<std::int32_t>{8, 5});
  ASSERT_TRUE(first.wait().empty());
  EXPECT_EQ(static_cast<const char*>(first.data(8))[10], value_at(8, 10));
}

TEST_P(Store, TwoLeasesShareARecord) {
  write(5000);
  const auto store = open(3 * 5056);
  RecordLease b(store);
  {
    RecordLease a(store);
    a.add(std::vector<std::int32_t>{1, 2});
    b.add(std::vector<std::int32_t>{2, 3});
    ASSERT_TRUE(a.wait().empty());
    EXPECT_EQ(a.data(2), [&] {
      EXPECT_TRUE(b.wait().empty());
      return b.data(2);
    }());
  }
  EXPECT_EQ(static_cast<const char*>(b.data(2))[0], value_at(2, 0));
  EXPECT_EQ(store->stats().reads, 3);
}

// The policy in plain containers: what is kept, in order of arrival, and every token's uses.
struct PlainCache {
  std::int64_t capacity, period, counted = 0, hits = 0, misses = 0, free;
  std::vector<int> uses = std::vector<int>(kTokens);
  std::list<std::int32_t> kept;
  std::set<std::int32_t> own;  // held beyond the budget

  PlainCache(std::int64_t c, std::int64_t p) : capacity(c), period(p), free(c) {}
  int of(std::int32_t t) const { return uses[static_cast<std::size_t>(t)]; }
  // Makes room by giving up what was used least, if it was used no more than `token`.
  bool room(std::int32_t token) {
    if (free > 0) return --free, true;
    const auto least =
        std::min_element(kept.begin(), kept.end(), [&](auto a, auto b) { return of(a) < of(b); });
    if (least == kept.end() || of(*least) > of(token)) return false;
    kept.erase(least);
    return true;
  }
  void count(std::int32_t token) {
    ++uses[static_cast<std::size_t>(token)];
    if (++counted < period) return;
    counted = 0;
    kept.sort([&](auto a, auto b) { return of(a) < of(b); });
    for (int& u : uses) u /= 2;
  }
  void use(std::vector<std::int32_t> batch) {
    std::sort(batch.begin(), batch.end());
    batch.erase(std::unique(batch.begin(), batch.end()), batch.end());
    const auto is_kept = [&](std::int32_t t) { return std::find(kept.begin(), kept.end(), t) != kept.end(); };
    std::stable_partition(batch.begin(), batch.end(), is_kept);
    for (const std::int32_t t : batch) {
      const bool hit = is_kept(t);
      ++(hit ? hits : misses);
      if (hit) kept.remove(t);
      count(t);
      if (!hit && !room(t)) own.insert(t);
    }
    std::sort(batch.begin(), batch.end());
    for (const std::int32_t t : batch) {
      if (own.erase(t) == 0 || room(t)) kept.push_back(t);
    }
  }
};

TEST_P(Store, KeepsWhatAPlainLfuKeepsUnderRandomSchedules) {
  write(96);
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Rng rng(seed, 1);
    const auto capacity = static_cast<std::int64_t>(1 + rng.below(40));
    const auto store = open(capacity * 128);
    PlainCache plain(capacity, std::max<std::int64_t>(16 * capacity, 64));
    for (int step = 0; step < 150; ++step) {
      std::vector<std::int32_t> batch(1 + rng.below(30));
      for (std::int32_t& t : batch) {
        const double u = rng.uniform();
        t = static_cast<std::int32_t>(u * u * u * static_cast<double>(kTokens));  // a few often
      }
      expect_records(store, batch);
      plain.use(batch);
      ASSERT_EQ(store->stats().hits, plain.hits) << "seed " << seed << ", step " << step;
      ASSERT_EQ(store->stats().misses, plain.misses);
      ASSERT_EQ(store->kept(), static_cast<std::int64_t>(plain.kept.size()));
    }
    EXPECT_GT(plain.hits, 0);
  }
}

TEST_P(Store, PrefetchedRecordsAreThereWhenAskedFor) {
  write(5000);
  const auto store = open(40 * 5056);
  store->prefetch(std::vector<std::int32_t>{1, 2, 3, 2});
  EXPECT_EQ(store->stats().reads, 3);
  expect_records(store, {2, 3, 4});
  const TableStats& s = store->stats();
  EXPECT_EQ(s.reads, 4);
  EXPECT_EQ(s.prefetched_used, 2);
  EXPECT_EQ(s.prefetched_unused, 0);
  EXPECT_EQ(s.misses, 3);  // they came from the disk all the same
  EXPECT_LE(s.most_in_flight, 4);
}

TEST_P(Store, WhatIsReadAheadIsBoundedAndForgotten) {
  write(96);
  const auto store = open(16 * 128);  // 8 may be ahead
  std::vector<std::int32_t> many(kTokens);
  for (std::int32_t t = 0; t < kTokens; ++t) many[static_cast<std::size_t>(t)] = t;
  for (int i = 0; i < 50; ++i) store->prefetch(many);
  const TableStats& s = store->stats();
  EXPECT_LE(s.reads - s.prefetched_unused, 8);
  store->drop();
  EXPECT_EQ(s.prefetched_unused, s.reads);
  EXPECT_EQ(store->kept(), 0);
  expect_records(store, {0, 1, 2});
}

TEST_P(Store, PrefetchesAtRandomChangeNoRecord) {
  write(5000);
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    Rng rng(seed, 2);
    const auto store = open(static_cast<std::int64_t>(1 + rng.below(30)) * 5056);
    for (int step = 0; step < 60; ++step) {
      std::vector<std::int32_t> ahead(rng.below(12)), batch(1 + rng.below(8));
      for (std::int32_t& t : ahead) t = static_cast<std::int32_t>(rng.below(kTokens));
      for (std::int32_t& t : batch) t = static_cast<std::int32_t>(rng.below(kTokens));
      store->prefetch(ahead);
      if (rng.below(8) == 0) store->drop();
      if (rng.below(4) > 0)
        expect_records(store, batch);
      else
        RecordLease(store).add(batch);  // given up while in flight
      ASSERT_LE(store->kept(), store->capacity());
    }
    const TableStats& s = store->stats();
    EXPECT_EQ(s.hits + s.misses, s.distinct);
    EXPECT_LE(s.prefetched_used + s.prefetched_unused, s.reads);
  }
}

TEST_P(Store, ABudgetBelowOneRecordIsRefusedWithBothSizes) {
  write(5000);
  try {
    open(4999);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_EQ(std::string(e.what()),
              path().string() + ": table budget: expected at least 5000 bytes, one record, found 4999");
  }
  EXPECT_EQ(open(5000)->capacity(), 1);
}

TEST_P(Store, AFileThatIsCutFailsTheRecordsItLost) {
  write(5000);
  const auto store = open(40 * 5056);
  expect_records(store, {1, 80});
  fs::resize_file(path(), kFirst + 50 * 5000 + 10);
  expect_records(store, {1, 80});  // in memory
  {
    RecordLease lease(store);
    lease.add(std::vector<std::int32_t>{2, 50, 70, 49});
    const auto failures = lease.wait();
    ASSERT_EQ(failures.size(), 2u);
    EXPECT_EQ(failures[0].token, 50);
    EXPECT_EQ(failures[0].code, ErrorCode::kIo);
    EXPECT_EQ(
        failures[0].message,
        path().string() +
            ": record of token 50: expected 5000 bytes at 254096, found 10: the file was cut while in use");
    EXPECT_EQ(failures[1].token, 70);
    EXPECT_EQ(static_cast<const char*>(lease.data(49))[4999], value_at(49, 4999));
  }
  expect_records(store, {1, 2, 49, 80});
  write(5000);
  expect_records(store, {50, 70});  // a failure is not remembered
}

TEST_P(Store, AnAheadReadThatFailsIsToldToWhoNeedsIt) {
  write(5000);
  const auto store = open(40 * 5056);
  fs::resize_file(path(), kFirst + 50 * 5000);
  store->prefetch(std::vector<std::int32_t>{60, 10});
  RecordLease lease(store);
  lease.add(std::vector<std::int32_t>{60, 10});
  const auto failures = lease.wait();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].token, 60);
}

TEST_P(Store, AVerifierSeesEachRecordOnceAndMayRefuseIt) {
  write(5000);
  std::vector<std::int32_t> seen;
  const auto store = open(40 * 5056, [&](std::int32_t token, std::span<const std::byte> bytes) {
    seen.push_back(token);
    ASSERT_EQ(bytes.size(), 5000u);
    ASSERT_EQ(static_cast<char>(bytes[9]), value_at(token, 9));
    if (token == 4) fail(ErrorCode::kIntegrity, "row of token 4: not what was signed");
  });
  expect_records(store, {1, 2});
  expect_records(store, {2, 3});
  RecordLease lease(store);
  lease.add(std::vector<std::int32_t>{3, 4});
  const auto failures = lease.wait();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].code, ErrorCode::kIntegrity);
  EXPECT_EQ(failures[0].message, "row of token 4: not what was signed");
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, (std::vector<std::int32_t>{1, 2, 3, 4}));
}

TEST_P(Store, RatesOfTheDiskAreMeasured) {
  write(5000);
  const DiskRates rates = measure_disk(file(), {.path = GetParam()});
  EXPECT_GT(rates.record_s, 0);
  EXPECT_GT(rates.records_per_s, 0);
  EXPECT_EQ(rates.read_path.starts_with("io_uring"), GetParam() == ReadPath::uring);
  fs::resize_file(path(), kFirst + 5000);
  EXPECT_THROW(measure_disk(file(), {.path = GetParam()}), Error);
}

INSTANTIATE_TEST_SUITE_P(Paths, Store, ::testing::Values(ReadPath::uring, ReadPath::threads),
                         [](const auto& p) { return p.param == ReadPath::uring ? "uring" : "threads"; });

class StoreFaults : public Store {};

TEST_P(StoreFaults, DiskErrorsFailOneRecordAndInterruptionsNone) {
  write(5000);
  std::atomic<int> interrupted{0};
  const auto store =
      open(40 * 5056, {},
           [&](int descriptor, void* to, std::uint64_t bytes, std::uint64_t offset) -> std::int64_t {
             const std::uint64_t token = (offset + 4096 - kFirst) / 5000;
             if (token == 7) return -EIO;
             if (interrupted++ % 2 == 0) return -EINTR;
             return ::pread(descriptor, to, bytes, static_cast<off_t>(offset));
           });
  EXPECT_EQ(store->queue().read_path(), ReadPath::threads);
  {
    RecordLease lease(store);
    lease.add(std::vector<std::int32_t>{7});
    const auto failures = lease.wait();
    ASSERT_EQ(failures.size(), 1u);
    EXPECT_NE(
        failures[0].message.find("record of token 7: cannot read 5000 bytes at 39096: Input/output error"),
        std::string::npos)
        << failures[0].message;
  }
  expect_records(store, {20});
}

INSTANTIATE_TEST_SUITE_P(Paths, StoreFaults, ::testing::Values(ReadPath::automatic),
                         [](const auto&) { return "injected"; });

}  // namespace
}  // namespace stem
