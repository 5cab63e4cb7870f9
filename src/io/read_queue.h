// Reads of one file that run while the program goes on: io_uring where the kernel allows it, else threads
// that call pread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace stem {

/// Direct reads start and end on multiples of this, in the file and in memory.
inline constexpr std::uint64_t kDirectBlockBytes = 4096;

/// How reads reach the system.
enum class ReadPath {
  automatic,  ///< io_uring, and threads where it is forbidden or absent (containers)
  uring,      ///< io_uring or an Error
  threads,    ///< a pool of threads that call pread
};

/// In place of pread: fills `to` with up to `bytes` bytes from `offset` and returns their number, or a
/// negated errno. Called on several threads at once.
using ReadFunction =
    std::function<std::int64_t(int descriptor, void* to, std::uint64_t bytes, std::uint64_t offset)>;

struct ReadQueueOptions {
  ReadPath path = ReadPath::automatic;
  bool direct = true;       ///< past the page cache (O_DIRECT) where the file system can
  std::size_t depth = 64;   ///< most reads in flight, 1 .. 4096
  std::size_t threads = 8;  ///< of the pool
  ReadFunction read = {};   ///< for tests: reads by this, on threads
};

/// One read of `bytes` bytes (below 2 GiB) at `offset` into `to`; where the file is read directly all three
/// are multiples of kDirectBlockBytes.
struct ReadJob {
  std::uint64_t offset = 0, bytes = 0;
  void* to = nullptr;
  std::uint64_t tag = 0;  ///< comes back with the result
};

/// What became of one: the bytes read (fewer than asked: the file ends there), or a negated errno.
struct ReadResult {
  std::uint64_t tag = 0;
  std::int64_t bytes = 0;
};

/// A descriptor on its way into a queue.
struct OpenedFile {
  int descriptor = -1;
  bool direct = false;
  std::uint64_t file_bytes = 0;
};

/// Reads in flight on one file. All members are called from one thread. The memory of a job belongs to the
/// queue until its result was collected, or the queue is gone (the destructor waits).
class ReadQueue {
 public:
  /// Opens a regular file. Throws Error (kNotFound, kIo): the file cannot be opened, or io_uring was asked
  /// for and the system refuses it.
  static std::unique_ptr<ReadQueue> open(const std::filesystem::path& path,
                                         const ReadQueueOptions& options = {});
  virtual ~ReadQueue();
  ReadQueue(const ReadQueue&) = delete;
  ReadQueue& operator=(const ReadQueue&) = delete;

  /// Starts reads and returns at once. No more than depth() may be in flight.
  void submit(std::span<const ReadJob> jobs);
  /// Appends the results that have come to `results`; with `wait`, waits for at least one while any is in
  /// flight. Failed reads are results too: it never throws for them.
  void collect(std::vector<ReadResult>& results, bool wait);

  std::size_t in_flight() const { return in_flight_; }
  std::size_t depth() const { return depth_; }
  bool direct() const { return direct_; }                   ///< whether reads pass by the page cache
  ReadPath read_path() const { return path_; }              ///< uring or threads, never automatic
  std::string description() const;                          ///< "io_uring, direct": for people
  std::uint64_t file_bytes() const { return file_bytes_; }  ///< when it was opened

 protected:
  ReadQueue(const OpenedFile& file, ReadPath path, std::size_t depth);
  virtual void start(std::span<const ReadJob> jobs) = 0;
  virtual void take(std::vector<ReadResult>& results, bool wait) = 0;
  int descriptor() const { return descriptor_; }

 private:
  static std::unique_ptr<ReadQueue> open_as(const std::filesystem::path& path,
                                            const ReadQueueOptions& options, bool direct);

  int descriptor_;
  bool direct_;
  std::uint64_t file_bytes_;
  ReadPath path_;
  std::size_t depth_, in_flight_ = 0;
};

/// The two kinds. On success the queue owns file.descriptor; the first returns null and sets `reason` (errno)
/// where io_uring is not to be had.
std::unique_ptr<ReadQueue> open_uring_queue(const OpenedFile& file, std::size_t depth, int* reason);
std::unique_ptr<ReadQueue> open_thread_queue(const OpenedFile& file, const ReadQueueOptions& options);

}  // namespace stem
