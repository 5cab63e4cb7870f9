#include "apps/interrupt.h"

namespace stem {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM};
volatile std::sig_atomic_t g_pending = 0;

void remember(int signal) {
  if (g_pending != 0) {  // the second one: as if nobody had ever listened
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  g_pending = signal;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  g_pending = 0;
  for (int i = 0; i < 2; ++i) {
    struct sigaction action {};
    action.sa_handler = remember;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(kSignals[i], nullptr, &before_[i]);
    if (before_[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

InterruptGuard::~InterruptGuard() {
  for (int i = 0; i < 2; ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

int InterruptGuard::pending() {
  return g_pending;
}

}  // namespace stem
