#include "tables/frequency_lists.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <vector>

#include "core/rng.h"

namespace stem {
namespace {

// The same policy, written as plainly as it can be: a list in order of arrival, searched from the front.
struct PlainLfu {
  std::vector<int> frequency;
  std::list<std::int32_t> evictable;
  std::int64_t period, counted = 0;

  PlainLfu(std::int64_t tokens, std::int64_t p) : frequency(static_cast<std::size_t>(tokens)), period(p) {}
  int of(std::int32_t t) const { return frequency[static_cast<std::size_t>(t)]; }
  void count(std::int32_t token) {
    int& f = frequency[static_cast<std::size_t>(token)];
    f = std::min(f + 1, 255);
    if (++counted < period) return;
    counted = 0;
    // Among equals after halving the less used come first, so the order before it decides.
    evictable.sort([&](std::int32_t a, std::int32_t b) { return of(a) < of(b); });  // stable
    for (int& each : frequency) each /= 2;
  }
  std::optional<std::int32_t> least() const {
    if (evictable.empty()) return std::nullopt;
    return *std::min_element(evictable.begin(), evictable.end(),
                             [&](std::int32_t a, std::int32_t b) { return of(a) < of(b); });
  }
};

TEST(FrequencyLists, GivesUpTheLeastUsedAndOfEqualsTheOldest) {
  FrequencyLists lists(10, 1000);
  EXPECT_EQ(lists.least(), std::nullopt);
  for (const std::int32_t t : {3, 3, 5, 7, 7, 2}) lists.count(t);
  for (const std::int32_t t : {3, 5, 7, 2}) lists.add(t);
  EXPECT_EQ(lists.size(), 4);
  std::vector<std::int32_t> order;
  while (const auto t = lists.least()) {
    order.push_back(*t);
    lists.remove(*t);
  }
  EXPECT_EQ(order, (std::vector<std::int32_t>{5, 2, 3, 7}));
}

TEST(FrequencyLists, CountsSaturateAndAge) {
  FrequencyLists lists(4, 1000);
  for (int i = 0; i < 700; ++i) lists.count(1);
  EXPECT_EQ(lists.frequency(1), 255);
  for (int i = 0; i < 300; ++i) lists.count(2);
  EXPECT_EQ(lists.frequency(1), 127);
  EXPECT_EQ(lists.frequency(2), 127);
}

TEST(FrequencyLists, EqualsThePlainOneUnderRandomSchedules) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Rng rng(seed, 0);
    const auto tokens = static_cast<std::int64_t>(1 + rng.below(60));
    const auto period = static_cast<std::int64_t>(1 + rng.below(200));
    FrequencyLists lists(tokens, period);
    PlainLfu plain(tokens, period);
    for (int step = 0; step < 3000; ++step) {
      const auto token = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(tokens)));
      if (lists.contains(token)) {
        lists.remove(token);
        plain.evictable.remove(token);
      }
      if (rng.below(3) > 0) {
        lists.count(token);
        plain.count(token);
      }
      if (rng.below(4) > 0) {
        lists.add(token);
        plain.evictable.push_back(token);
      }
      ASSERT_EQ(lists.frequency(token), plain.of(token));
      ASSERT_EQ(lists.size(), static_cast<std::int64_t>(plain.evictable.size()));
      const auto least = lists.least();
      ASSERT_EQ(least, plain.least()) << "seed " << seed << ", step " << step;
      if (least && rng.below(5) == 0) {
        lists.remove(*least);
        plain.evictable.remove(*least);
      }
    }
  }
}

}  // namespace
}  // namespace stem
