#include "generate/kv_ranges.h"

#include <gtest/gtest.h>

#include <map>

#include "core/rng.h"
#include "generate/prompt_lookup.h"

namespace stem {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(KvRanges, AFinishedSequenceIsCopiedOrTakenOver) {
  KvRanges ranges(100);
  const Ids first{1, 2, 3, 4, 5, 6, 7, 8};
  const auto a = ranges.place(first, 20);
  ASSERT_TRUE(a);
  EXPECT_EQ(a->cached, 0);
  ranges.append(a->id, first);
  EXPECT_EQ(ranges.busy_rows(), 20);
  // While it runs its rows can be copied.
  const Ids half{1, 2, 3, 4, 9, 9};
  const auto b = ranges.place(half, 6);
  ASSERT_TRUE(b);
  EXPECT_EQ(b->first, 20);
  EXPECT_EQ(b->cached, 4);
  EXPECT_EQ(b->copy_from, 0);
  ranges.release(b->id);
  ranges.release(a->id);
  // The conversation goes on: in place, all but the prompt's last token.
  const Ids longer{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const auto c = ranges.place(longer, 12);
  ASSERT_TRUE(c);
  EXPECT_EQ(c->id, a->id);
  EXPECT_EQ(c->cached, 8);
  EXPECT_EQ(c->copy_from, -1);
  ranges.append(c->id, Ids{9, 10});
  ranges.release(c->id);
  const auto d = ranges.place(longer, 10);
  EXPECT_EQ(d->cached, 9);  // its last token is computed again: the logits after it are wanted
}

TEST(KvRanges, TheLeastRecentlyUsedGivesWay) {
  KvRanges ranges(30);
  for (std::int32_t i = 0; i < 3; ++i) {
    const Ids prompt{i, i, i, i, i, i, i, i, i, i};
    const auto place = ranges.place(prompt, 10);
    ranges.append(place->id, prompt);
    ranges.release(place->id);
  }
  EXPECT_EQ(ranges.idle_ranges(), 3u);
  const auto again = ranges.place(Ids{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 10);
  EXPECT_EQ(again->cached, 9);
  ranges.append(again->id, Ids{0});
  ranges.release(again->id);
  const auto fresh = ranges.place(Ids{7, 7}, 10);  // takes the place of the 1s
  ASSERT_TRUE(fresh);
  EXPECT_EQ(ranges.longest_match(Ids{1, 1, 1}), 0);
  EXPECT_EQ(ranges.longest_match(Ids{0, 0, 0}), 2);
  EXPECT_EQ(ranges.longest_match(Ids{2, 2, 2}), 2);
}

TEST(KvRanges, WhereRunningOnesLeaveNoGapNothingIsGivenUp) {
  KvRanges ranges(30);
  const auto a = ranges.place(Ids{1}, 10), b = ranges.place(Ids{2}, 10);
  ranges.append(b->id, Ids{2, 3, 4});
  ranges.release(b->id);
  ASSERT_TRUE(a);
  EXPECT_FALSE(ranges.place(Ids{5}, 21));
  EXPECT_EQ(ranges.longest_match(Ids{2, 3, 4, 5}), 3);
  EXPECT_TRUE(ranges.place(Ids{5}, 20));
}

TEST(KvRanges, WithoutReuseNothingStays) {
  KvRanges ranges(30, false);
  const Ids prompt{1, 2, 3};
  const auto a = ranges.place(prompt, 10);
  ranges.append(a->id, prompt);
  ranges.release(a->id);
  EXPECT_EQ(ranges.idle_ranges(), 0u);
  EXPECT_EQ(ranges.place(prompt, 10)->cached, 0);
}

// A model of the cache: what each row holds. Every place must find its prompt's beginning where it says.
TEST(KvRanges, RandomSchedulesNeverOverlapAndNeverLie) {
  Rng rng(3, 2);
  for (int round = 0; round < 20; ++round) {
    constexpr std::int64_t kRows = 64;
    KvRanges ranges(kRows);
    std::vector<Ids> row(kRows);  // the tokens up to and with this row
    struct Running {
      KvRanges::Place place;
      Ids tokens;
      std::int64_t length = 0;
    };
    std::vector<Running> running;
    std::int64_t reused = 0, refused = 0;
    for (int step = 0; step < 400; ++step) {
      if (running.empty() || rng.below(3) > 0) {
        Running r;
        for (std::uint64_t n = 1 + rng.below(12); n > 0; --n)
          r.tokens.push_back(static_cast<std::int32_t>(rng.below(2)));
        r.length = std::ssize(r.tokens) + static_cast<std::int64_t>(rng.below(12));
        const auto place = ranges.place(r.tokens, r.length);
        if (!place) {
          ++refused;
        } else {
          r.place = *place;
          ASSERT_GE(place->first, 0);
          ASSERT_LE(place->first + r.length, kRows);
          ASSERT_LT(place->cached, std::ssize(r.tokens));
          for (const Running& other : running) {
            ASSERT_TRUE(place->first + r.length <= other.place.first ||
                        other.place.first + other.length <= place->first);
          }
          reused += place->cached;
          for (std::int64_t i = 0; i < place->cached; ++i) {
            const std::int64_t from = (place->copy_from >= 0 ? place->copy_from : place->first) + i;
            ASSERT_EQ(row[static_cast<std::size_t>(from)], Ids(r.tokens.begin(), r.tokens.begin() + i + 1));
          }
          const auto fill = [&](std::int64_t i) {
            row[static_cast<std::size_t>(place->first + i)] = Ids(r.tokens.begin(), r.tokens.begin() + i + 1);
          };
          for (std::int64_t i = 0; i < std::ssize(r.tokens); ++i) fill(i);
          ranges.append(place->id, std::span(r.tokens).subspan(static_cast<std::size_t>(place->cached)));
          while (std::ssize(r.tokens) < r.length && rng.below(4) > 0) {
            r.tokens.push_back(static_cast<std::int32_t>(rng.below(2)));
            fill(std::ssize(r.tokens) - 1);
            ranges.append(place->id, {&r.tokens.back(), 1});
          }
          running.push_back(r);
        }
      } else {
        const auto at = static_cast<std::ptrdiff_t>(rng.below(running.size()));
        ranges.release(running[static_cast<std::size_t>(at)].place.id);
        running.erase(running.begin() + at);
      }
    }
    EXPECT_GT(reused, 100);
    EXPECT_GT(refused, 0);
  }
}

TEST(PromptLookup, ContinuesTheLastPlaceThatEndedAlike) {
  EXPECT_EQ(prompt_lookup(Ids{1, 2, 3, 4, 5, 9, 1, 2, 3}, 3), (Ids{4, 5, 9}));
  EXPECT_EQ(prompt_lookup(Ids{1, 2, 7, 0, 1, 2, 8, 5, 1, 2}, 2), (Ids{8, 5}));  // the later of two
  EXPECT_EQ(prompt_lookup(Ids{3, 1, 2, 7, 0, 1, 2, 8, 3, 1, 2}, 1), (Ids{7}));  // three count more than two
  EXPECT_EQ(prompt_lookup(Ids{5, 5, 5, 5}, 4), (Ids{5}));
  EXPECT_TRUE(prompt_lookup(Ids{1, 2, 3, 4}, 3).empty());
  EXPECT_TRUE(prompt_lookup(Ids{1, 2, 1, 2}, 0).empty());
  EXPECT_TRUE(prompt_lookup(Ids{1}, 3).empty());
}

}  // namespace
}  // namespace stem
