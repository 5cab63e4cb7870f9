#include "apps/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace stem {
namespace {
constexpr int kBarWidth = 24;
constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kLogInterval = std::chrono::milliseconds(10'000);
}  // namespace

Progress::Progress(std::string title, std::int64_t total, bool quiet, std::int64_t before)
    : title_(std::move(title)),
      total_(std::max<std::int64_t>(total, 1)),
      before_(before),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

Progress::~Progress() {
  finish();
}

void Progress::update(std::int64_t done, const std::string& detail) {
  if (quiet_) return;
  const auto now = std::chrono::steady_clock::now();
  const bool is_last = done >= total_;
  if (open_ && !is_last && now - last_ < (terminal_ ? kTerminalInterval : kLogInterval)) return;
  last_ = now;
  open_ = true;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double share = static_cast<double>(done) / static_cast<double>(total_);
  const std::string left = is_last || done <= before_
                               ? duration_text(elapsed)
                               : duration_text(elapsed * static_cast<double>(total_ - done) /
                                               static_cast<double>(done - before_)) +
                                     " left";
  const int filled = static_cast<int>(share * kBarWidth);
  std::string bar;
  for (int i = 0; i < kBarWidth; ++i) bar += i < filled ? "█" : "░";
  if (terminal_)
    fmt::print(stderr, "\r\x1b[2K{} {} {:3.0f} %  {}  {}", title_, bar, 100 * share, detail, left);
  else
    fmt::print(stderr, "{} {:3.0f} %  {}  {}\n", title_, 100 * share, detail, left);
  std::fflush(stderr);
}

void Progress::finish() {
  if (open_ && terminal_) fmt::print(stderr, "\n");
  open_ = false;
}

std::string duration_text(double seconds) {
  if (seconds < 99.5) return fmt::format("{:.0f} s", seconds);
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  return fmt::format("{} min {:02} s", whole / 60, whole % 60);
}

std::string count_text(std::int64_t value) {
  std::string digits = std::to_string(value);
  for (auto i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3) {
    digits.insert(static_cast<std::size_t>(i), 1, ',');
  }
  return digits;
}

std::string bytes_text(double bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < std::size(units)) {
    bytes /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, units[unit]);
}

}  // namespace stem
