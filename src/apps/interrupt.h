// SIGINT and SIGTERM while training: the step in hand is finished and saved; a second signal ends at once.
#pragma once

#include <csignal>
#include <string>

namespace stem {

/// Thrown when a run stopped because of a signal, after it was saved. Exit code 128 + signal: 130 or 143.
struct Interrupted {
  int signal = 0;
  std::string message;  ///< one line: what was done, how to go on
};

/// While it lives, SIGINT and SIGTERM are remembered instead of ending the process; the second one ends it.
/// A signal that the process ignored before (a job in the background) stays ignored. One at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static int pending();  ///< the signal that came, 0: none

 private:
  struct sigaction before_[2];
};

}  // namespace stem
