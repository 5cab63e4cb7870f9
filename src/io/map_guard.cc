#include "io/map_guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <mutex>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::size_t kMaxRegions = 256;
// Each page replaced on its own is a map of its own, and a process may have only some 65,000. After so many
// of one file the rest of it is replaced at once.
constexpr std::uint64_t kMaxSinglePages = 1024;

// Static memory that is never freed: the handler may run in one thread while another ends a guard. It touches
// `pages` only of a region that holds the faulting address, and that one's guard lives.
struct Region {
  std::atomic<std::uintptr_t> begin{0}, end{0};
  std::atomic<std::uint64_t> faults{0};
  std::unique_ptr<std::atomic<std::uint64_t>[]> pages;  // a bit a page: lost
  bool used = false;                                    // under the mutex
};
std::array<Region, kMaxRegions> regions;
std::mutex regions_mutex;
struct sigaction previous {};
std::uintptr_t page_bytes = 4096;

void pass_on(int number, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr)
    return previous.sa_sigaction(number, info, context);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) return previous.sa_handler(number);
  std::signal(number, SIG_DFL);  // the access is repeated and ends the process as if we had not been there
}

// Only what a signal handler may do: atomics, mmap (a bare system call).
void on_bus_error(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const std::uintptr_t page = address / page_bytes * page_bytes;
  std::uintptr_t last = 0;  // of the pages to replace
  for (Region& r : regions) {
    const std::uintptr_t begin = r.begin.load(std::memory_order_acquire);
    const std::uintptr_t end = r.end.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= end) continue;
    const bool many = r.faults.fetch_add(1) >= kMaxSinglePages;
    last = many ? (end - 1) / page_bytes * page_bytes : page;
    for (std::uintptr_t p = page; p <= last; p += page_bytes) {
      const std::uintptr_t i = (p - begin) / page_bytes;
      r.pages[i / 64].fetch_or(std::uint64_t{1} << (i % 64));
    }
  }
  if (last != 0) {
    void* const zeros = ::mmap(reinterpret_cast<void*>(page), last - page + page_bytes, PROT_READ,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    errno = saved;
    if (zeros != MAP_FAILED) return;
  }
  pass_on(number, info, context);
}

void install_handler() {
  page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction ours {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&ours.sa_mask);
  require(::sigaction(SIGBUS, &ours, &previous) == 0, "a handler for SIGBUS");
}

}  // namespace

MapGuard::MapGuard(const MappedFile& file) : file_(file) {
  static std::once_flag installed;
  std::call_once(installed, install_handler);
  const std::lock_guard lock(regions_mutex);
  while (region_ < kMaxRegions && regions[region_].used) ++region_;
  if (region_ == kMaxRegions)
    fail(ErrorCode::kIo, "{}: expected at most {} guarded files at a time", file.path().string(),
         kMaxRegions);
  Region& r = regions[region_];
  const std::uint64_t words = (file.size() / page_bytes + 1) / 64 + 1;
  r.pages = std::make_unique<std::atomic<std::uint64_t>[]>(words);  // zeros
  r.faults = 0;
  r.used = true;
  const auto begin = reinterpret_cast<std::uintptr_t>(file.data());
  r.end.store(begin + file.size(), std::memory_order_release);
  r.begin.store(begin, std::memory_order_release);
}

MapGuard::~MapGuard() {
  const std::lock_guard lock(regions_mutex);
  Region& r = regions[region_];
  r.begin.store(0, std::memory_order_release);
  r.end.store(0, std::memory_order_release);
  r.used = false;
  r.pages.reset();
}

bool MapGuard::any_lost() const {
  return regions[region_].faults.load() > 0 || file_.current_size() < file_.size();
}

bool MapGuard::lost(std::uint64_t offset, std::uint64_t bytes) const {
  if (bytes == 0) return false;
  // The page that holds the new end reads as zeros beyond it without a signal.
  if (offset + bytes > file_.current_size()) return true;
  const Region& r = regions[region_];
  for (std::uint64_t page = offset / page_bytes; page <= (offset + bytes - 1) / page_bytes; ++page) {
    if ((r.pages[page / 64].load() >> (page % 64) & 1) != 0) return true;
  }
  return false;
}

}  // namespace stem
