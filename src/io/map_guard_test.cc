#include "io/map_guard.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <memory>
#include <thread>

#include "core/error.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

class Guard : public ::testing::Test {
 protected:
  fs::path write(std::uint64_t bytes, const char* name = "ones") {
    FileWriter file(dir / name);
    file.write(std::string(bytes, '\1'));
    file.close();
    return dir / name;
  }
  static int at(const MappedFile& file, std::uint64_t offset) {
    return static_cast<int>(*static_cast<const volatile std::byte*>(file.data() + offset));
  }
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

TEST_F(Guard, AWholeFileLosesNothing) {
  const MappedFile file(write(100'000));
  const MapGuard guard(file);
  EXPECT_EQ(at(file, 99'999), 1);
  EXPECT_FALSE(guard.any_lost());
  EXPECT_FALSE(guard.lost(0, 100'000));
}

TEST_F(Guard, LostPagesReadAsZerosAndAreKnown) {
  const fs::path path = write(100'000);
  const MappedFile file(path);
  const MapGuard guard(file);
  fs::resize_file(path, 10'000);
  EXPECT_EQ(at(file, 50'000), 0);  // without the guard: the end of the process
  EXPECT_EQ(at(file, 50'001), 0);
  EXPECT_EQ(at(file, 9'999), 1);
  EXPECT_TRUE(guard.any_lost());
  EXPECT_TRUE(guard.lost(50'000, 1));
  EXPECT_TRUE(guard.lost(10'000, 1));  // in the last page, which reads as zeros without a signal
  EXPECT_TRUE(guard.lost(0, 10'001));
  EXPECT_FALSE(guard.lost(0, 10'000));
}

TEST_F(Guard, AFileThatGrowsBackStaysLostWhereItWasTouched) {
  const fs::path path = write(100'000);
  const MappedFile file(path);
  const MapGuard guard(file);
  fs::resize_file(path, 0);
  EXPECT_EQ(at(file, 50'000), 0);
  write(100'000);
  EXPECT_TRUE(guard.any_lost());
  EXPECT_TRUE(guard.lost(50'000, 1));
  EXPECT_TRUE(guard.lost(49'152, 1));  // the same page
  EXPECT_FALSE(guard.lost(60'000, 1));
  EXPECT_EQ(at(file, 60'000), 1);
}

TEST_F(Guard, FilesArePoisonedOneByOne) {
  const fs::path path = write(100'000);
  const MappedFile cut(path), whole(write(100'000, "twos"));
  const MapGuard a(cut), b(whole);
  fs::resize_file(path, 0);
  EXPECT_EQ(at(cut, 0), 0);
  EXPECT_TRUE(a.any_lost());
  EXPECT_FALSE(b.any_lost());
}

TEST_F(Guard, ManyLostPagesOfAFileDoNotExhaustTheMaps) {
  constexpr std::uint64_t kPages = 4000;
  const fs::path path = write(kPages * 4096);
  const MappedFile file(path);
  const MapGuard guard(file);
  fs::resize_file(path, 0);
  for (std::uint64_t i = 0; i < kPages; ++i) ASSERT_EQ(at(file, (i * 1531 % kPages) * 4096), 0);
  EXPECT_TRUE(guard.lost(17 * 4096, 1));
}

TEST_F(Guard, ThreadsMayFaultTogether) {
  const fs::path path = write(4096 * 512);
  const MappedFile file(path);
  const MapGuard guard(file);
  fs::resize_file(path, 0);
  std::vector<std::thread> threads;
  std::atomic<int> sum{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (std::uint64_t i = 0; i < 512; ++i) sum += at(file, i * 4096);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(sum, 0);
  EXPECT_TRUE(guard.any_lost());
}

TEST_F(Guard, ABusErrorElsewhereEndsTheProcessAsBefore) {
  const fs::path path = write(100'000);
  const pid_t child = ::fork();
  if (child == 0) {
    const MappedFile guarded(write(100'000, "guarded")), other(path);
    const MapGuard guard(guarded);
    fs::resize_file(path, 0);
    ::_exit(42 + at(other, 50'000));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  // Sanitizers end it in their own way.
  EXPECT_TRUE((WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) || WEXITSTATUS(status) < 42)
      << "exit " << WEXITSTATUS(status);
}

TEST_F(Guard, AGuardThatEndedGuardsNoMore) {
  const fs::path path = write(100'000);
  for (int i = 0; i < 1000; ++i) {  // more than live at a time
    const MappedFile file(path);
    const MapGuard guard(file);
    ASSERT_FALSE(guard.any_lost());
  }
  const MappedFile file(path);
  std::vector<std::unique_ptr<MapGuard>> many;
  EXPECT_THROW(for (int i = 0; i < 1000; ++i) many.push_back(std::make_unique<MapGuard>(file)), Error);
}

}  // namespace
}  // namespace stem
