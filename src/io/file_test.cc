#include "io/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "core/error.h"
#include "io/temporary_folder.h"

namespace stem {
namespace {
namespace fs = std::filesystem;

class File : public ::testing::Test {
 protected:
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(dir), fs::directory_iterator()));
  }
  const TemporaryFolder folder;
  const fs::path dir = folder.path();
};

struct Failure {
  ErrorCode code{};
  std::string text = "no error";
  bool names(std::string_view part) const { return text.find(part) != std::string::npos; }
};

Failure failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  return {};
}

TEST_F(File, WritesAndReads) {
  const std::string content("a\0b", 3);
  write_file_atomic(dir / "x", content);
  EXPECT_EQ(read_file(dir / "x"), content);
  EXPECT_EQ(read_file(dir / "x", 3), content);
  EXPECT_TRUE(failure_of([&] { read_file(dir / "x", 2); }).names("at most 2"));
  write_file_atomic(dir / "x", "new");
  EXPECT_EQ(read_file(dir / "x"), "new");
  EXPECT_EQ(entries(), 1u);
  EXPECT_EQ(read_file("/proc/self/stat").empty(), false);  // its size reads 0
}

TEST_F(File, AtomicWriteKeepsModeAndLink) {
  write_file_atomic(dir / "secret", "1", 0600);
  write_file_atomic(dir / "secret", "2");
  struct stat status {};
  ASSERT_EQ(::stat((dir / "secret").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  fs::create_symlink("secret", dir / "link");
  write_file_atomic(dir / "link", "3");
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
  EXPECT_EQ(read_file(dir / "secret"), "3");
}

TEST_F(File, RefusesWhatIsNoRegularFile) {
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  fs::create_symlink("b", dir / "a");
  fs::create_symlink("a", dir / "b");
  EXPECT_TRUE(failure_of([&] { read_file(dir / "fifo"); }).names("found a FIFO"));
  EXPECT_TRUE(failure_of([&] { MappedFile{dir / "fifo"}; }).names("found a FIFO"));
  EXPECT_TRUE(failure_of([&] { MappedFile{dir}; }).names("found a directory"));
  EXPECT_TRUE(failure_of([&] { MappedFile{"/dev/zero"}; }).names("found a device"));
  EXPECT_TRUE(failure_of([&] { MappedFile{dir / "a"}; }).names((dir / "a").string()));
  const Failure absent = failure_of([&] { read_file(dir / "absent"); });
  EXPECT_EQ(absent.code, ErrorCode::kNotFound);
  EXPECT_TRUE(absent.names((dir / "absent").string()));
}

TEST_F(File, MapReadsAndSurvivesTruncation) {
  write_file_atomic(dir / "x", std::string(10'000, 'q') + "end");
  MappedFile map(dir / "x");
  ASSERT_EQ(map.size(), 10'003u);
  EXPECT_EQ(map.text().substr(10'000), "end");
  MappedFile moved = std::move(map);
  char three[3];
  moved.read_at(10'000, three, 3);
  EXPECT_EQ(std::string(three, 3), "end");
  EXPECT_TRUE(failure_of([&] { moved.read_at(10'001, three, 3); }).names("found a file of 10003"));
  EXPECT_TRUE(failure_of([&] { moved.read_at(~std::uint64_t{0}, three, 3); }).names("expected 3 bytes"));
  ASSERT_EQ(::truncate((dir / "x").c_str(), 100), 0);
  EXPECT_TRUE(failure_of([&] { moved.read_at(10'000, three, 3); }).names("cut while in use"));
  write_file_atomic(dir / "empty", "");
  EXPECT_EQ(MappedFile(dir / "empty").size(), 0u);
}

TEST_F(File, SparseTerabyteMapsAtOnce) {
  const int file = ::open((dir / "big").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(file, 0);
  const bool sparse = ::ftruncate(file, off_t{1} << 40) == 0;
  ::close(file);
  if (!sparse) GTEST_SKIP() << "the file system has no sparse terabyte";
  EXPECT_EQ(MappedFile(dir / "big").size(), std::uint64_t{1} << 40);
  EXPECT_TRUE(failure_of([&] { read_file(dir / "big"); }).names("at most 1073741824"));
}

TEST_F(File, WriterCountsAndJoinsPieces) {
  FileWriter writer(dir / "x");
  std::string expected;
  for (std::size_t i = 0; i < 40; ++i) {
    const std::string piece(i * 1000 + (i % 7 == 0 ? 300'000 : 0), static_cast<char>('a' + i % 26));
    writer.write(piece);
    expected += piece;
    ASSERT_EQ(writer.position(), expected.size());
  }
  writer.close();
  writer.close();
  EXPECT_EQ(read_file(dir / "x"), expected);
}

TEST_F(File, BlocksOfZerosTakeNoDisk) {
  const std::uint64_t size = std::uint64_t{8} << 20;
  // Zeros at the start, at the end, and from and to places that are not a block's.
  for (const auto& [first, count] : {std::pair<std::uint64_t, std::uint64_t>{3u << 20, 5000u},
                                     {0, 1},
                                     {size - 1, 1},
                                     {4095, 1},
                                     {(1u << 20) - 7, 4096 * 3},
                                     {0, 0}}) {
    std::string bytes(size, '\0');
    for (std::uint64_t i = 0; i < count; ++i) bytes[first + i] = static_cast<char>(1 + i % 200);
    const fs::path path = dir / "sparse";
    FileWriter writer(path);
    writer.write("head");
    writer.write(bytes);
    writer.close();
    EXPECT_TRUE(read_file(path) == "head" + bytes) << first;
    struct stat status {};
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    if (status.st_blocks * 512 > static_cast<blkcnt_t>(size)) GTEST_SKIP() << "the file system has no holes";
    EXPECT_LE(status.st_blocks * 512, 64 << 10) << first;
  }
}

TEST_F(File, DiskFullIsAnErrorWithFileBytesAndReason) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  FileWriter small("/dev/full");
  small.write("abc");
  const Failure late = failure_of([&] { small.close(); });  // buffered bytes fail no later than close
  EXPECT_EQ(late.code, ErrorCode::kIo);
  EXPECT_EQ(late.text, "/dev/full: cannot write 3 bytes at 0: No space left on device");
  FileWriter large("/dev/full");
  EXPECT_TRUE(
      failure_of([&] { large.write(std::string(1 << 20, 'x')); }).names("1048576 bytes at 0: No space"));
}

// Runs in a child process, because a file size limit cannot be raised again: true if `body` returned true.
bool with_file_limit(rlim_t bytes, const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, bytes};
    ::_exit(::setrlimit(RLIMIT_FSIZE, &limit) == 0 && body() ? 0 : 1);
  }
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST_F(File, NothingIsLostWhenTheDiskFills) {
  write_file_atomic(dir / "x", "old");
  const std::string large(100'000, 'x');
  EXPECT_TRUE(with_file_limit(4096, [&] {
    return failure_of([&] { write_file_atomic(dir / "x", large); })
        .names("cannot write 95904 bytes at 4096: File too");
  }));
  EXPECT_EQ(read_file(dir / "x"), "old");
  EXPECT_EQ(entries(), 1u);

  fs::create_directory(dir / "model");
  write_file_atomic(dir / "model" / "stem.json", "old");
  EXPECT_TRUE(with_file_limit(4096, [&] {
    return failure_of([&] {
             StagedDirectory stage(dir / "model");
             FileWriter writer(stage.file("stem.json"));
             writer.write(large);
             writer.close();
             stage.commit();
           })
        .names("File too large");
  }));
  EXPECT_EQ(read_file(dir / "model" / "stem.json"), "old");
  EXPECT_EQ(entries(), 2u);
}

TEST_F(File, StagedDirectoryAppearsWhole) {
  const fs::path final_path = dir / "deep" / "model";
  {
    StagedDirectory stage(final_path / "");  // a trailing slash changes nothing
    write_file_atomic(stage.file("stem.json"), "1");
    EXPECT_FALSE(fs::exists(final_path));
    EXPECT_EQ(stage.path().filename().string(), "model.partial-" + std::to_string(::getpid()));
    stage.commit();
  }
  EXPECT_EQ(read_file(final_path / "stem.json"), "1");
  {
    StagedDirectory abandoned(final_path);
    write_file_atomic(abandoned.file("stem.json"), "2");
  }
  EXPECT_EQ(read_file(final_path / "stem.json"), "1");
  {
    StagedDirectory stage(final_path);
    write_file_atomic(stage.file("other"), "3");
    fs::create_directory(stage.path() / "sub");
    write_file_atomic(stage.path() / "sub" / "f", "4");
    stage.commit();
  }
  EXPECT_EQ(read_file(final_path / "sub" / "f"), "4");
  EXPECT_FALSE(fs::exists(final_path / "stem.json"));  // replaced, not merged
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "deep"), fs::directory_iterator()), 1);
}

TEST_F(File, StagedDirectoryReplacesOnlyItsOwnKind) {
  fs::create_directory(dir / "home");
  write_file_atomic(dir / "home" / "thesis", "x");
  write_file_atomic(dir / "file", "x");
  EXPECT_EQ(failure_of([&] { StagedDirectory{dir / "home"}; }).code, ErrorCode::kUsage);
  EXPECT_TRUE(failure_of([&] { StagedDirectory{dir / "home"}; }).names("without stem.json"));
  EXPECT_TRUE(failure_of([&] { StagedDirectory{dir / "file"}; }).names("found a file"));
  EXPECT_TRUE(failure_of([&] { StagedDirectory{"/"}; }).names("expected the name"));
  EXPECT_TRUE(failure_of([&] { StagedDirectory{dir / "file" / "x"}; }).names("cannot create"));
  StagedDirectory late(dir / "late");
  write_file_atomic(late.file("stem.json"), "new");
  fs::create_directory(dir / "late");
  write_file_atomic(dir / "late" / "thesis", "x");
  EXPECT_EQ(failure_of([&] { late.commit(); }).code, ErrorCode::kUsage);
  EXPECT_TRUE(fs::exists(dir / "late" / "thesis"));
}

TEST_F(File, StagedDirectoryFollowsALink) {
  fs::create_directory(dir / "elsewhere");
  fs::create_directory_symlink("elsewhere", dir / "model");
  StagedDirectory stage(dir / "model");
  write_file_atomic(stage.file("stem.json"), "1");
  stage.commit();
  EXPECT_TRUE(fs::is_symlink(dir / "model"));
  EXPECT_EQ(read_file(dir / "elsewhere" / "stem.json"), "1");
}

TEST_F(File, SwitchesALink) {
  fs::create_directory(dir / "step-1");
  fs::create_directory(dir / "step-2");
  switch_link(dir / "latest", "step-1");
  EXPECT_EQ(fs::read_symlink(dir / "latest"), "step-1");
  switch_link(dir / "latest", "step-2");
  EXPECT_EQ(fs::read_symlink(dir / "latest"), "step-2");
  EXPECT_EQ(entries(), 3u);
  EXPECT_TRUE(failure_of([&] { switch_link(dir / "step-1", "step-2"); }).names("expected a symbolic link"));
}

}  // namespace
}  // namespace stem
