#include "data/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace stem {
namespace {

// Documents of the given lengths; every token of the shard is another id.
TokenShard shard_of(const std::vector<std::int64_t>& lengths) {
  TokenShard shard;
  std::int32_t next = 0;
  for (const std::int64_t n : lengths) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(n - 1));
    const std::int32_t start = next++;
    for (auto& id : ids) id = next++;
    shard.append(start, ids);
  }
  return shard;
}

TokenShard random_shard(std::uint64_t seed, std::int64_t longest = 40) {
  Rng rng(seed, 0);
  std::vector<std::int64_t> lengths(30);
  for (auto& n : lengths) n = 1 + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(longest)));
  return shard_of(lengths);
}

// What holds for every batch: shapes, segments cover all rows once, positions count from 0 in each.
void expect_well_formed(const Batch& b, const BatchOptions& o) {
  const auto n = static_cast<std::size_t>(o.tokens_per_step);
  ASSERT_EQ(b.tokens.size(), n);
  ASSERT_EQ(b.positions.size(), n);
  ASSERT_EQ(b.targets.size(), n);
  std::int64_t row = 0;
  for (const Segment& s : b.segments) {
    ASSERT_EQ(s.q_row, row);
    ASSERT_EQ(s.k_row, row);
    ASSERT_EQ(s.k_len, s.q_len);
    ASSERT_GT(s.q_len, 0);
    ASSERT_LE(s.q_len, o.max_sequence);
    for (std::int64_t i = 0; i < s.q_len; ++i)
      ASSERT_EQ(b.positions[static_cast<std::size_t>(row + i)], static_cast<std::int32_t>(i));
    row += s.q_len;
  }
  ASSERT_EQ(row, o.tokens_per_step);
}

TEST(BatchStream, AnEpochHoldsEveryTokenOnce) {
  for (const std::int64_t n : {2, 7, 64, 1000}) {
    const TokenShard shard = random_shard(1);
    const BatchOptions options{n, 16, true, 5};
    BatchStream stream(shard, options);
    std::vector<std::int32_t> all;
    for (std::int64_t step = 0; static_cast<std::int64_t>(all.size()) < 3 * shard.size(); ++step) {
      const Batch b = stream.at(step);
      expect_well_formed(b, options);
      all.insert(all.end(), b.tokens.begin(), b.tokens.end());
    }
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
      const auto begin = all.begin() + epoch * shard.size();
      std::vector<std::int32_t> once(begin, begin + shard.size());
      std::sort(once.begin(), once.end());
      std::vector<std::int32_t> expected = shard.tokens;
      std::sort(expected.begin(), expected.end());
      ASSERT_EQ(once, expected) << "epoch " << epoch << ", " << n << " tokens a step";
    }
  }
}

TEST(BatchStream, EpochsAreOrderedDifferentlyAndDocumentsStayWhole) {
  const TokenShard shard = random_shard(2);
  BatchStream stream(shard, {shard.size(), 1000, true, 5});
  const Batch first = stream.at(0), second = stream.at(1);
  EXPECT_NE(first.tokens, second.tokens);
  EXPECT_NE(first.tokens, shard.tokens);
  ASSERT_EQ(first.segments.size(), static_cast<std::size_t>(shard.document_count()));
  for (std::size_t i = 0; i < first.segments.size(); ++i) {
    const auto d = static_cast<std::size_t>(first.documents[i]);
    const Segment& s = first.segments[i];
    EXPECT_TRUE(std::equal(first.tokens.begin() + s.q_row, first.tokens.begin() + s.q_row + s.q_len,
                           shard.tokens.begin() + shard.documents[d],
                           shard.tokens.begin() + shard.documents[d + 1]));
  }
  EXPECT_EQ(stream.steps_per_epoch(), 1);
  EXPECT_EQ(BatchStream(shard, {shard.size() - 1, 8, true, 5}).steps_per_epoch(), 2);
}

TEST(BatchStream, AStepIsAFunctionOfSeedAndStep) {
  const TokenShard shard = random_shard(3);
  const BatchOptions options{50, 16, true, 5};
  BatchStream forward(shard, options), backward(shard, options);
  std::vector<Batch> batches;
  for (std::int64_t step = 0; step < 40; ++step) batches.push_back(forward.at(step));
  for (std::int64_t step = 39; step >= 0; --step) {
    const Batch b = backward.at(step);
    EXPECT_EQ(b.tokens, batches[static_cast<std::size_t>(step)].tokens);
    EXPECT_EQ(b.targets, batches[static_cast<std::size_t>(step)].targets);
    EXPECT_EQ(b.positions, batches[static_cast<std::size_t>(step)].positions);
  }
  BatchOptions other = options;
  other.seed = 6;
  EXPECT_NE(BatchStream(shard, other).at(0).tokens, batches[0].tokens);
}

TEST(BatchStream, TheTargetIsTheNextTokenOfTheStream) {
  const TokenShard shard = random_shard(4);
  BatchStream stream(shard, {13, 16, true, 5});
  Batch before = stream.at(0);
  for (std::int64_t step = 1; step < 100; ++step) {
    const Batch b = stream.at(step);
    for (std::size_t i = 0; i + 1 < before.tokens.size(); ++i)
      ASSERT_EQ(before.targets[i], before.tokens[i + 1]);
    ASSERT_EQ(before.targets.back(), b.tokens.front()) << "step " << step;
    before = b;
  }
}

TEST(BatchStream, TheDocumentMaskCutsAtEveryDocument) {
  const TokenShard shard = shard_of({5, 5, 5, 5});
  BatchStream masked(shard, {20, 100, true, 1}), open(shard, {20, 100, false, 1});
  ASSERT_EQ(masked.at(0).segments.size(), 4u);
  for (const Segment& s : masked.at(0).segments) EXPECT_EQ(s.q_len, 5);
  ASSERT_EQ(open.at(0).segments.size(), 1u);
  EXPECT_EQ(open.at(0).segments[0].q_len, 20);
  EXPECT_EQ(open.at(0).tokens, masked.at(0).tokens);
  EXPECT_EQ(open.at(0).documents.size(), 4u);
}

TEST(BatchStream, LongDocumentsGoOnAsNewSegments) {
  const TokenShard shard = shard_of({25});
  BatchStream stream(shard, {25, 10, true, 1});
  const Batch b = stream.at(0);
  ASSERT_EQ(b.segments.size(), 3u);
  EXPECT_EQ(b.segments[0].q_len, 10);
  EXPECT_EQ(b.segments[2].q_len, 5);
  EXPECT_EQ(b.tokens, shard.tokens);
  EXPECT_EQ(b.targets[9], b.tokens[10]);  // the cut costs context, not a target
  EXPECT_EQ(b.targets.back(), shard.tokens.front());
}

TEST(BatchStream, AShardWithoutTextIsRefused) {
  for (const TokenShard& shard : {TokenShard(), shard_of({1})}) {
    try {
      BatchStream(shard, {});
      ADD_FAILURE() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kFormat);
      EXPECT_STREQ(e.what(), "the token shard holds no text: expected at least 2 tokens");
    }
  }
}

TEST(BatchStream, MaskedTokensAreReadButAreNoTargets) {
  TokenShard shard = random_shard(3);
  const BatchOptions options{37, 16, true, 5};
  BatchStream plain_stream(shard, options);
  std::vector<Batch> plain;
  for (std::int64_t step = 0; step < 40; ++step) plain.push_back(plain_stream.at(step));
  for (std::int64_t i = 0; i < shard.size(); ++i)
    shard.loss_mask.push_back(static_cast<std::uint8_t>(i % 3 == 0));  // here token i has the id i
  BatchStream stream(shard, options);
  for (const Batch& before : plain) {
    const Batch b = stream.at(&before - plain.data());
    EXPECT_EQ(b.tokens, before.tokens);
    for (std::size_t i = 0; i < b.targets.size(); ++i)
      ASSERT_EQ(b.targets[i], before.targets[i] % 3 == 0 ? before.targets[i] : -1);
  }
  Batch eval;
  append_sequence(eval, shard, 3, 5);
  EXPECT_EQ(eval.targets, (std::vector<std::int32_t>{-1, -1, 6, -1, -1}));
}

TEST(Split, PartsAreWholeSegmentsInOrder) {
  const TokenShard shard = random_shard(4);
  const BatchOptions options{200, 16, true, 5};
  BatchStream stream(shard, options);
  for (const std::int64_t parts : {1, 2, 4, 7, 1000}) {
    const Batch whole = stream.at(3);
    const std::vector<Batch> all = split(whole, parts);
    EXPECT_LE(static_cast<std::int64_t>(all.size()), parts);
    Batch joined;
    for (const Batch& part : all) {
      BatchOptions own = options;
      own.tokens_per_step = static_cast<std::int64_t>(part.tokens.size());
      expect_well_formed(part, own);
      EXPECT_LE(own.tokens_per_step, 200 / parts + 2 * 16);
      joined.tokens.insert(joined.tokens.end(), part.tokens.begin(), part.tokens.end());
      joined.targets.insert(joined.targets.end(), part.targets.begin(), part.targets.end());
      joined.positions.insert(joined.positions.end(), part.positions.begin(), part.positions.end());
      joined.segments.insert(joined.segments.end(), part.segments.begin(), part.segments.end());
    }
    EXPECT_EQ(joined.tokens, whole.tokens);
    EXPECT_EQ(joined.targets, whole.targets);
    EXPECT_EQ(joined.positions, whole.positions);
    EXPECT_EQ(joined.segments.size(), whole.segments.size());
    if (parts <= 7) {
      EXPECT_EQ(static_cast<std::int64_t>(all.size()), parts);
    }
  }
}

TEST(AppendSequence, LastTokenHasNoTarget) {
  Batch batch;
  TokenShard shard;
  shard.append(5, {6, 7});
  shard.append(8, {});
  append_sequence(batch, shard, 0, 3);
  append_sequence(batch, shard, 3, 1);
  EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{5, 6, 7, 8}));
  EXPECT_EQ(batch.positions, (std::vector<std::int32_t>{0, 1, 2, 0}));
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{6, 7, -1, -1}));
  ASSERT_EQ(batch.segments.size(), 2u);
  EXPECT_EQ(batch.segments[1].q_row, 3);
}

}  // namespace
}  // namespace stem
