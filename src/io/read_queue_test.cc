#include "io/read_queue.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <map>
#include <set>

#include "core/error.h"
#include "core/rng.h"
#include "core/workspace.h"
#include "io/file.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

constexpr std::uint64_t kBlock = kDirectBlockBytes;

class Queue : public ::testing::TestWithParam<ReadPath> {
 protected:
  void SetUp() override {
    Rng rng(1, 0);
    content.resize(40 * kBlock + 100);
    for (char& c : content) c = static_cast<char>(rng.next());
    FileWriter file(path());
    file.write(content);
    file.close();
  }
  fs::path path() const { return dir / "bytes"; }

  // Null, with a message, where this machine forbids io_uring.
  std::unique_ptr<ReadQueue> open(ReadQueueOptions options = {}) {
    options.path = GetParam();
    try {
      return ReadQueue::open(path(), options);
    } catch (const Error& e) {
      EXPECT_EQ(GetParam(), ReadPath::uring);
      skipped = e.what();
    }
    return nullptr;
  }
  // The results of all that is in flight, by tag.
  static std::map<std::uint64_t, std::int64_t> drain(ReadQueue& queue) {
    std::vector<ReadResult> results;
    while (queue.in_flight() > 0) queue.collect(results, true);
    std::map<std::uint64_t, std::int64_t> by_tag;
    for (const ReadResult& r : results) EXPECT_TRUE(by_tag.emplace(r.tag, r.bytes).second);
    return by_tag;
  }

  const TemporaryFolder folder;
  const fs::path dir = folder.path();
  std::string content, skipped;
  Buffer memory{std::size_t{4} << 20};  // on a block's boundary
  char* at(std::uint64_t block) { return static_cast<char*>(memory.data()) + block * kBlock; }
};

#define OPEN_OR_SKIP(queue, ...)        \
  const auto queue = open(__VA_ARGS__); \
  if (queue == nullptr) GTEST_SKIP() << skipped

TEST_P(Queue, ReadsManyBlocksAtOnce) {
  OPEN_OR_SKIP(queue);
  EXPECT_EQ(queue->read_path(), GetParam());
  EXPECT_EQ(queue->file_bytes(), content.size());
  std::vector<ReadJob> jobs;
  for (std::uint64_t i = 0; i < 40; ++i) jobs.push_back({(39 - i) * kBlock, kBlock, at(39 - i), i});
  queue->submit(jobs);
  EXPECT_EQ(queue->in_flight(), 40u);
  const auto results = drain(*queue);
  ASSERT_EQ(results.size(), 40u);
  for (const auto& [tag, bytes] : results) EXPECT_EQ(bytes, static_cast<std::int64_t>(kBlock)) << tag;
  EXPECT_EQ(std::memcmp(memory.data(), content.data(), 40 * kBlock), 0);
}

TEST_P(Queue, ReadsWhileOthersAreInFlight) {
  OPEN_OR_SKIP(queue, {.depth = 8, .threads = 3});
  Rng rng(2, 0);
  std::vector<ReadResult> results;
  std::set<std::uint64_t> in_use;
  std::vector<std::uint64_t> block_of(8);
  std::uint64_t started = 0, finished = 0;
  while (finished < 300) {
    while (in_use.size() < 8 && started < 300 && rng.below(4) > 0) {
      std::uint64_t tag = 0;
      while (in_use.contains(tag)) ++tag;
      block_of[tag] = rng.below(40);
      const ReadJob job{block_of[tag] * kBlock, kBlock, at(tag), tag};
      queue->submit({&job, 1});
      in_use.insert(tag);
      ++started;
    }
    results.clear();
    queue->collect(results, !in_use.empty() && rng.below(2) == 0);
    for (const ReadResult& r : results) {
      ASSERT_EQ(r.bytes, static_cast<std::int64_t>(kBlock));
      ASSERT_EQ(std::memcmp(at(r.tag), content.data() + block_of[r.tag] * kBlock, kBlock), 0);
      in_use.erase(r.tag);
      ++finished;
    }
  }
}

TEST_P(Queue, TheEndOfTheFileIsAShortRead) {
  OPEN_OR_SKIP(queue);
  const ReadJob jobs[] = {{40 * kBlock, kBlock, at(0), 1}, {64 * kBlock, kBlock, at(1), 2}};
  queue->submit(jobs);
  const auto results = drain(*queue);
  EXPECT_EQ(results.at(1), 100);
  EXPECT_EQ(results.at(2), 0);
  EXPECT_EQ(std::memcmp(at(0), content.data() + 40 * kBlock, 100), 0);
}

TEST_P(Queue, MayGoAwayWithReadsInFlight) {
  OPEN_OR_SKIP(queue);
  std::vector<ReadJob> jobs;
  for (std::uint64_t i = 0; i < 40; ++i) jobs.push_back({i * kBlock, kBlock, at(i), i});
  queue->submit(jobs);
}

TEST_P(Queue, ReadsThroughThePageCacheWhenAsked) {
  OPEN_OR_SKIP(queue, {.direct = false});
  EXPECT_FALSE(queue->direct());
  EXPECT_NE(queue->description().find("buffered"), std::string::npos);
  const ReadJob job{7, 50, at(0) + 3, 5};  // nothing aligned
  queue->submit({&job, 1});
  EXPECT_EQ(drain(*queue).at(5), 50);
  EXPECT_EQ(std::memcmp(at(0) + 3, content.data() + 7, 50), 0);
}

INSTANTIATE_TEST_SUITE_P(Paths, Queue, ::testing::Values(ReadPath::uring, ReadPath::threads),
                         [](const auto& p) { return p.param == ReadPath::uring ? "uring" : "threads"; });

class QueueErrors : public Queue {};

TEST_P(QueueErrors, AnInjectedFaultIsAResult) {
  ReadQueueOptions options;
  options.read = [](int, void*, std::uint64_t bytes, std::uint64_t offset) -> std::int64_t {
    return offset == 0 ? -EIO : static_cast<std::int64_t>(bytes) / 2;
  };
  OPEN_OR_SKIP(queue, options);
  EXPECT_EQ(queue->read_path(), ReadPath::threads);
  const ReadJob jobs[] = {{0, kBlock, at(0), 1}, {kBlock, kBlock, at(1), 2}};
  queue->submit(jobs);
  const auto results = drain(*queue);
  EXPECT_EQ(results.at(1), -EIO);
  EXPECT_EQ(results.at(2), static_cast<std::int64_t>(kBlock / 2));
}

TEST_P(QueueErrors, MissingFilesAndDirectoriesAreRefused) {
  const auto code = [&](const fs::path& p) {
    try {
      ReadQueue::open(p, {.path = GetParam()});
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(p.string()), std::string::npos);
      return e.code();
    }
    return ErrorCode::kUsage;
  };
  EXPECT_EQ(code(dir / "none"), ErrorCode::kNotFound);
  EXPECT_EQ(code(dir), ErrorCode::kIo);
}

// From here on the system call is refused in this process, as containers do.
bool forbid(long call) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_P(QueueErrors, ThreadsTakeOverWhereIoUringIsForbidden) {
  for (const long call : {SYS_io_uring_setup, SYS_io_uring_enter}) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (!forbid(call)) ::_exit(77);
      try {
        const auto queue = ReadQueue::open(path());
        const ReadJob job{kBlock, kBlock, at(0), 1};
        queue->submit({&job, 1});
        const bool read = drain(*queue).at(1) == static_cast<std::int64_t>(kBlock) &&
                          std::memcmp(at(0), content.data() + kBlock, kBlock) == 0;
        ::_exit(read && queue->read_path() == ReadPath::threads ? 0 : 1);
      } catch (...) {
        ::_exit(2);
      }
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp here";
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0) << "system call " << call;
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, QueueErrors, ::testing::Values(ReadPath::automatic),
                         [](const auto&) { return "automatic"; });

}  // namespace
}  // namespace stem
