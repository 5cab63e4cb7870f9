// io_uring through liburing, which nothing else includes.
#include <liburing.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "core/error.h"
#include "io/read_queue.h"

namespace stem {
namespace {

class UringQueue final : public ReadQueue {
 public:
  UringQueue(const OpenedFile& file, std::size_t depth, const io_uring& ring)
      : ReadQueue(file, ReadPath::uring, depth), ring_(ring) {}

  ~UringQueue() override {
    std::vector<ReadResult> results;  // the kernel writes into the jobs' memory until they end
    while (in_flight() > 0) collect(results, true);
    io_uring_queue_exit(&ring_);
  }

 private:
  void start(std::span<const ReadJob> jobs) override {
    std::size_t prepared = 0;
    for (; prepared < jobs.size() && refused_ == 0; ++prepared) {
      io_uring_sqe* entry = io_uring_get_sqe(&ring_);
      if (entry == nullptr) break;  // the ring has room for depth(), so this cannot be
      const ReadJob& job = jobs[prepared];
      io_uring_prep_read(entry, descriptor(), job.to, static_cast<unsigned>(job.bytes), job.offset);
      entry->user_data = job.tag;
    }
    std::size_t taken = 0;
    while (taken < prepared) {
      const int count = io_uring_submit(&ring_);
      if (count > 0) taken += static_cast<std::size_t>(count);
      if (count > 0 || count == -EINTR) continue;
      if (count == -EAGAIN || count == -EBUSY || count == 0) {  // the kernel is short of memory for a moment
        const timespec pause{0, 1'000'000};
        if (++pauses_ < 1000) {
          nanosleep(&pause, nullptr);
          continue;
        }
      }
      // What lies unsubmitted in the ring must never start: its memory will be used again.
      refused_ = count < 0 ? -count : EIO;
      break;
    }
    pauses_ = 0;
    const int code = refused_ != 0 ? refused_ : EIO;
    for (std::size_t i = taken; i < jobs.size(); ++i) failed_.push_back({jobs[i].tag, -code});
  }

  void take(std::vector<ReadResult>& results, bool wait) override {
    const std::size_t before = results.size();
    results.insert(results.end(), failed_.begin(), failed_.end());
    failed_.clear();
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring_, &entry) == 0 && entry != nullptr) {
      results.push_back({entry->user_data, entry->res});
      io_uring_cqe_seen(&ring_, entry);
    }
    if (!wait || results.size() > before) return;
    int code = 0;
    do {
      code = io_uring_wait_cqe(&ring_, &entry);
    } while (code == -EINTR);
    require(code == 0, "waiting for a read that is in flight");
    take(results, false);
  }

  io_uring ring_;
  std::vector<ReadResult> failed_;  // never reached the kernel
  int refused_ = 0;                 // errno after which nothing is submitted any more
  int pauses_ = 0;
};

}  // namespace

std::unique_ptr<ReadQueue> open_uring_queue(const OpenedFile& file, std::size_t depth, int* reason) {
  io_uring ring{};
  const int code = io_uring_queue_init(static_cast<unsigned>(depth), &ring, 0);
  if (code < 0) {
    *reason = -code;
    return nullptr;
  }
  return std::make_unique<UringQueue>(file, depth, ring);
}

}  // namespace stem
