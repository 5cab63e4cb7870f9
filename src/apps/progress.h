// Progress on stderr: one line that redraws itself on a terminal, a line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace stem {

class Progress {
 public:
  /// `total` units of work, `before` of them done earlier (a resumed run); `quiet` prints nothing.
  Progress(std::string title, std::int64_t total, bool quiet = false, std::int64_t before = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows `done` of total, the time left, and `detail` (for example "loss 1.23  41,000 tokens/s").
  void update(std::int64_t done, const std::string& detail);
  void finish();  ///< ends the line

 private:
  std::string title_;
  std::int64_t total_, before_;
  bool quiet_, terminal_, open_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

/// "12 s", "3 min 05 s".
std::string duration_text(double seconds);
/// 1234567 -> "1,234,567".
std::string count_text(std::int64_t value);
/// "1.5 MB".
std::string bytes_text(double bytes);

}  // namespace stem
