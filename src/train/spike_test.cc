#include "train/spike.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"

namespace stem {
namespace {

TEST(SpikeWindow, SaysNothingBeforeItHasSeenEnough) {
  SpikeWindow window;
  for (std::size_t i = 0; i + 1 < SpikeWindow::kLeast; ++i) window.accept(2.0);
  EXPECT_TRUE(std::isinf(window.limit()));
  window.accept(2.0);
  EXPECT_FALSE(std::isinf(window.limit()));
}

TEST(SpikeWindow, TheLimitIsSixRobustSigmasOverTheMedian) {
  SpikeWindow window;
  // 20 losses 3.00, 3.02, …, 3.38: median 3.19, distances 0.01, 0.01, 0.03, 0.03, …, 0.19, 0.19: median 0.10.
  for (int i = 0; i < 20; ++i) window.accept(3.0 + 0.02 * i);
  EXPECT_NEAR(window.limit(), 3.19 + 6 * 1.4826 * 0.10, 1e-12);
  window.accept(1000.0);  // one wild loss moves the limit by next to nothing
  EXPECT_LT(window.limit(), 4.3);
}

TEST(SpikeWindow, LossesThatHardlyVaryHaveAFloor) {
  SpikeWindow window;
  for (int i = 0; i < 30; ++i) window.accept(4.0);
  EXPECT_NEAR(window.limit(), 4.0 + 6 * 0.04, 1e-12);
}

TEST(SpikeWindow, KeepsTheNewest) {
  SpikeWindow window, other;
  for (int i = 0; i < 150; ++i) window.accept(i);
  ASSERT_EQ(window.losses().size(), SpikeWindow::kWindow);
  EXPECT_EQ(window.losses().front(), 50.0);
  other.restore(window.losses());
  EXPECT_EQ(other.limit(), window.limit());
}

TEST(OnSpike, NamesGoBothWays) {
  for (const char* name : {"continue", "stop", "skip", "rollback"})
    EXPECT_EQ(name_of(on_spike_from(name)), name);
  try {
    on_spike_from("ignore");
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
    EXPECT_STREQ(e.what(), "train.on_spike: expected continue, stop, skip or rollback, found \"ignore\"");
  }
}

}  // namespace
}  // namespace stem
