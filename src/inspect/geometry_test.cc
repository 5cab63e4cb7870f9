#include "inspect/geometry.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/rng.h"

namespace stem {
namespace {

Table table_of(TableShape shape, const std::vector<float>& values) {
  Table table = Table::in_memory(shape, DType::f32);
  require(std::cmp_equal(values.size(), shape.size()));
  std::copy(values.begin(), values.end(), table.writable_records().row<float>(0));
  return table;
}

Table gaussian(TableShape shape, std::uint64_t seed) {
  Rng rng(seed, 0);
  std::vector<float> values(static_cast<std::size_t>(shape.size()));
  for (float& v : values) v = static_cast<float>(rng.normal());
  return table_of(shape, values);
}

double total(const std::vector<double>& shares) {
  return std::accumulate(shares.begin(), shares.end(), 0.0);
}

ErrorCode code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "accepted";
  return ErrorCode::kIo;
}

TEST(Geometry, NormsAndCosinesOfKnownRows) {
  const Table table = table_of({3, 2, 2}, {3, 4, 1, 0, /**/ 6, 8, 0, 2, /**/ 0, 0, -5, 0});
  EXPECT_DOUBLE_EQ(row_norm(table, 0, 0), 5);
  EXPECT_DOUBLE_EQ(row_norm(table, 1, 1), 2);
  EXPECT_DOUBLE_EQ(row_norm(table, 0, kAllLayers), std::sqrt(26.0));
  EXPECT_DOUBLE_EQ(cosine(std::vector<float>{1, 0}, std::vector<float>{3, 0}), 1);
  EXPECT_DOUBLE_EQ(cosine(std::vector<float>{1, 0}, std::vector<float>{0, 2}), 0);
  EXPECT_DOUBLE_EQ(cosine(std::vector<float>{1, 1}, std::vector<float>{-1, -1}), -1);
  EXPECT_TRUE(std::isnan(cosine(std::vector<float>{0, 0}, std::vector<float>{1, 1})));
  EXPECT_TRUE(std::isnan(cosine(std::vector<float>{NAN, 0}, std::vector<float>{1, 1})));
}

TEST(Geometry, NearestRowsByLayerAndByRecord) {
  const Table table = table_of({5, 2, 2}, {1,  0, 1,  0,  // 0
                                           2,  0, -1, 0,  // 1: same direction in layer 0, opposite in layer 1
                                           1,  1, 2,  0.5f,  // 2
                                           0,  0, 0,  0,     // 3: zeros are nobody's neighbour
                                           -1, 0, 3,  0});   // 4
  const auto ids = [](const std::vector<Neighbour>& list) {
    std::vector<std::int32_t> tokens;
    for (const Neighbour& n : list) tokens.push_back(n.token);
    return tokens;
  };
  EXPECT_EQ(ids(nearest_rows(table, 0, 0, 10)), (std::vector<std::int32_t>{1, 2, 4}));
  EXPECT_EQ(ids(nearest_rows(table, 1, 0, 2)), (std::vector<std::int32_t>{4, 2}));
  EXPECT_EQ(ids(nearest_rows(table, kAllLayers, 0, 1)), (std::vector<std::int32_t>{2}));
  EXPECT_DOUBLE_EQ(nearest_rows(table, 0, 0, 1)[0].cosine, 1);
  EXPECT_TRUE(nearest_rows(table, 0, 0, 0).empty());
  EXPECT_TRUE(nearest_rows(table, 0, 3, 3).empty());
  EXPECT_EQ(code_of([&] { nearest_rows(table, 2, 0, 1); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { nearest_rows(table, 0, 5, 1); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { row_norm(table, -1, 0); }), ErrorCode::kNotFound);
}

TEST(Geometry, NearestKeepsTheBestOfMany) {
  const Table table = gaussian({300, 1, 8}, 3);
  const auto all = nearest_rows(table, 0, 7, 1000), some = nearest_rows(table, 0, 7, 9);
  ASSERT_EQ(all.size(), 299u);
  ASSERT_EQ(some.size(), 9u);
  for (std::size_t i = 0; i < some.size(); ++i) EXPECT_EQ(some[i].token, all[i].token);
  for (std::size_t i = 1; i < all.size(); ++i) EXPECT_GE(all[i - 1].cosine, all[i].cosine);
}

TEST(Geometry, OrthogonalAndIdenticalRows) {
  Table identity = Table::in_memory({8, 1, 8}, DType::f32);
  for (std::int64_t i = 0; i < 8; ++i) identity.writable_records().row<float>(i)[i] = 2.0f;
  const Table ones = table_of({8, 1, 8}, std::vector<float>(64, 0.5f));
  const std::vector<std::int64_t> counts(8, 5);
  const auto h = cosine_histogram(identity, ones.records(), counts, {.pairs = 500, .bins = 4});
  ASSERT_EQ(h.edges, (std::vector<double>{-1, -0.5, 0, 0.5, 1}));
  ASSERT_EQ(h.buckets.size(), 3u);
  EXPECT_EQ(h.buckets[0].rows, 8);
  EXPECT_EQ(h.buckets[0].pairs, 500);
  EXPECT_EQ(h.buckets[0].trained, (std::vector<double>{0, 0, 1, 0}));
  EXPECT_EQ(h.buckets[0].initial, (std::vector<double>{0, 0, 0, 1}));
  EXPECT_EQ(h.buckets[0].p95_trained, 0);
  EXPECT_NEAR(h.buckets[0].p95_initial, 1, 1e-12);
  EXPECT_EQ(h.buckets[1].rows, 0);
  EXPECT_TRUE(h.buckets[1].trained.empty());
  EXPECT_TRUE(std::isnan(h.buckets[1].p95_trained));
}

TEST(Geometry, GaussianRowsReachTheTheoreticalP95) {
  const TableShape shape{400, 2, 128};
  const Table a = gaussian(shape, 1), b = gaussian(shape, 2);
  std::vector<std::int64_t> counts(400, 0);
  for (std::size_t t = 0; t < 400; ++t) counts[t] = t < 100 ? 0 : t < 200 ? 3 : t < 300 ? 30 : 300;
  const auto h = cosine_histogram(a, b.records(), counts);
  EXPECT_DOUBLE_EQ(h.gaussian_p95, 1.96 / std::sqrt(128.0));
  for (const CosineBucket& bucket : h.buckets) {
    EXPECT_EQ(bucket.rows, 100);
    EXPECT_NEAR(bucket.p95_trained, h.gaussian_p95, 0.05 * h.gaussian_p95);
    EXPECT_NEAR(bucket.p95_initial, h.gaussian_p95, 0.05 * h.gaussian_p95);
    EXPECT_NEAR(total(bucket.trained), 1, 1e-9);
    EXPECT_NEAR(total(bucket.initial), 1, 1e-9);
  }
  EXPECT_LT(h.edges.back(), 0.5);  // the range follows the data
  const auto again = cosine_histogram(a, b.records(), counts);
  EXPECT_EQ(again.buckets[1].trained, h.buckets[1].trained);
  const auto other = cosine_histogram(a, b.records(), counts, {.seed = 9});
  EXPECT_NE(other.buckets[1].trained, h.buckets[1].trained);
}

TEST(Geometry, BucketsAndLayersAreKeptApart) {
  // Layer 0: tokens 0, 1 alike, 2, 3 opposite. Layer 1: the other way round.
  const Table table = table_of({4, 2, 1}, {1, 1, /**/ 1, -1, /**/ 1, 1, /**/ -1, 1});
  const std::vector<std::int64_t> counts{1, 1, 10, 10};
  for (const std::int64_t layer : {0, 1}) {
    const auto h = cosine_histogram(table, {}, counts, {.layer = layer, .pairs = 50, .bins = 2});
    EXPECT_EQ(h.buckets[0].trained, (layer == 0 ? std::vector<double>{0, 1} : std::vector<double>{1, 0}));
    EXPECT_EQ(h.buckets[1].trained, (layer == 0 ? std::vector<double>{1, 0} : std::vector<double>{0, 1}));
    EXPECT_TRUE(h.buckets[0].initial.empty());
    EXPECT_TRUE(std::isnan(h.buckets[0].p95_initial));
  }
  const auto mixed = cosine_histogram(table, {}, counts, {.pairs = 200, .bins = 2});
  EXPECT_NEAR(mixed.buckets[0].trained[0], 0.5, 0.15);
}

TEST(Geometry, RefusesWhatDoesNotBelongTogether) {
  const Table table = gaussian({4, 1, 8}, 1), other = gaussian({5, 1, 8}, 1);
  const std::vector<std::int64_t> counts(4, 1), few(3, 1);
  EXPECT_EQ(code_of([&] { cosine_histogram(table, other.records(), counts); }), ErrorCode::kMismatch);
  EXPECT_EQ(code_of([&] { cosine_histogram(table, {}, few); }), ErrorCode::kMismatch);
  EXPECT_EQ(code_of([&] { cosine_histogram(table, {}, counts, {.layer = 1}); }), ErrorCode::kNotFound);
  EXPECT_EQ(code_of([&] { cosine_histogram(table, {}, counts, {.pairs = 0}); }), ErrorCode::kUsage);
  EXPECT_EQ(code_of([&] { cosine_histogram(table, {}, counts, {.bins = 1 << 30}); }), ErrorCode::kUsage);
  EXPECT_EQ(code_of([&] { cosine_histogram(table, {}, counts, {.range = NAN}); }), ErrorCode::kUsage);
}

}  // namespace
}  // namespace stem
