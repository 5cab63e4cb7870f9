#include "io/read_queue.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/error.h"

namespace stem {
namespace {

std::int64_t read_with_pread(int descriptor, void* to, std::uint64_t bytes, std::uint64_t offset) {
  const ssize_t got = ::pread(descriptor, to, bytes, static_cast<off_t>(offset));
  return got < 0 ? -static_cast<std::int64_t>(errno) : static_cast<std::int64_t>(got);
}

class ThreadQueue final : public ReadQueue {
 public:
  ThreadQueue(const OpenedFile& file, const ReadQueueOptions& options)
      : ReadQueue(file, ReadPath::threads, options.depth),
        read_(options.read ? options.read : read_with_pread),
        threads_(options.threads) {
    require(threads_ > 0, "a pool of at least one thread");
  }

  ~ThreadQueue() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      jobs_.clear();
    }
    wanted_.notify_all();
    for (std::thread& t : pool_) t.join();
  }

 private:
  void start(std::span<const ReadJob> jobs) override {
    // Threads come with the first read: a table whose records all hit costs none.
    try {
      while (pool_.size() < threads_) pool_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {  // fewer threads read slower; none cannot read
      if (pool_.empty()) {
        const std::lock_guard lock(mutex_);
        for (const ReadJob& job : jobs) results_.push_back({job.tag, -EAGAIN});
        return;
      }
    }
    {
      const std::lock_guard lock(mutex_);
      jobs_.insert(jobs_.end(), jobs.begin(), jobs.end());
    }
    if (jobs.size() == 1)
      wanted_.notify_one();
    else
      wanted_.notify_all();
  }

  void take(std::vector<ReadResult>& results, bool wait) override {
    std::unique_lock lock(mutex_);
    if (wait) arrived_.wait(lock, [this] { return !results_.empty(); });
    results.insert(results.end(), results_.begin(), results_.end());
    results_.clear();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wanted_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      const ReadJob job = jobs_.front();
      jobs_.pop_front();
      lock.unlock();
      const std::int64_t got = read_(descriptor(), job.to, job.bytes, job.offset);
      lock.lock();
      results_.push_back({job.tag, got});
      arrived_.notify_one();
    }
  }

  const ReadFunction read_;
  const std::size_t threads_;
  std::mutex mutex_;  // guards the four below
  std::condition_variable wanted_, arrived_;
  std::deque<ReadJob> jobs_;
  std::vector<ReadResult> results_;
  bool stop_ = false;
  std::vector<std::thread> pool_;
};

// Whether the first block can be read: some systems let a ring be made and refuse what it is for, some file
// systems take O_DIRECT and refuse the read.
bool first_block_reads(ReadQueue& queue) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  const std::unique_ptr<void, Free> block(std::aligned_alloc(kDirectBlockBytes, kDirectBlockBytes));
  if (block == nullptr) throw std::bad_alloc();
  const ReadJob job{0, kDirectBlockBytes, block.get(), 0};
  queue.submit({&job, 1});
  std::vector<ReadResult> results;
  queue.collect(results, true);
  return results.at(0).bytes >= 0;
}

OpenedFile open_file(const std::filesystem::path& path, bool direct) {
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  OpenedFile file;
  if (direct) file.descriptor = ::open(path.c_str(), flags | O_DIRECT);
  file.direct = file.descriptor >= 0;
  if (!file.direct) file.descriptor = ::open(path.c_str(), flags);
  if (file.descriptor < 0) {
    fail(errno == ENOENT || errno == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: cannot open: {}",
         path.string(), std::strerror(errno));
  }
  struct stat status {};
  if (::fstat(file.descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file.descriptor);
    fail(ErrorCode::kIo, "{}: expected a regular file", path.string());
  }
  file.file_bytes = static_cast<std::uint64_t>(status.st_size);
  return file;
}

}  // namespace

std::unique_ptr<ReadQueue> open_thread_queue(const OpenedFile& file, const ReadQueueOptions& options) {
  return std::make_unique<ThreadQueue>(file, options);
}

ReadQueue::ReadQueue(const OpenedFile& file, ReadPath path, std::size_t depth)
    : descriptor_(file.descriptor),
      direct_(file.direct),
      file_bytes_(file.file_bytes),
      path_(path),
      depth_(depth) {
  require(depth > 0 && depth <= 4096, "a depth of 1 to 4096 reads");
}

ReadQueue::~ReadQueue() {
  ::close(descriptor_);
}

std::unique_ptr<ReadQueue> ReadQueue::open_as(const std::filesystem::path& path,
                                              const ReadQueueOptions& options, bool direct) {
  const OpenedFile file = open_file(path, direct);
  if (options.path != ReadPath::threads && !options.read) {
    int reason = 0;
    auto queue = open_uring_queue(file, options.depth, &reason);
    if (queue != nullptr) return queue;
    if (options.path == ReadPath::uring) {
      ::close(file.descriptor);
      fail(ErrorCode::kIo, "{}: io_uring is not to be had here: {}", path.string(), std::strerror(reason));
    }
  }
  return open_thread_queue(file, options);
}

std::unique_ptr<ReadQueue> ReadQueue::open(const std::filesystem::path& path,
                                           const ReadQueueOptions& options) {
  auto queue = open_as(path, options, options.direct);
  if (options.read || first_block_reads(*queue)) return queue;
  if (queue->direct()) {
    queue = open_as(path, options, false);
    if (first_block_reads(*queue)) return queue;
  }
  if (options.path == ReadPath::uring)
    fail(ErrorCode::kIo, "{}: io_uring cannot read it here", path.string());
  ReadQueueOptions plain = options;
  plain.path = ReadPath::threads;
  queue = open_as(path, plain, options.direct);
  if (queue->direct() && !first_block_reads(*queue)) queue = open_as(path, plain, false);
  return queue;
}

void ReadQueue::submit(std::span<const ReadJob> jobs) {
  require(in_flight_ + jobs.size() <= depth_, "no more reads than the queue is deep");
  if (jobs.empty()) return;
  in_flight_ += jobs.size();
  start(jobs);
}

void ReadQueue::collect(std::vector<ReadResult>& results, bool wait) {
  if (in_flight_ == 0) return;
  const std::size_t before = results.size();
  take(results, wait);
  in_flight_ -= results.size() - before;
}

std::string ReadQueue::description() const {
  return std::string(path_ == ReadPath::uring ? "io_uring" : "threads") +
         (direct_ ? ", direct" : ", buffered");
}

}  // namespace stem
