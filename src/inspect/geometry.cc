#include "inspect/geometry.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/rng.h"

namespace stem {
namespace {

constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();

void check_layer(const TableShape& shape, std::int64_t layer) {
  if (layer != kAllLayers && (layer < 0 || layer >= shape.layers)) {
    fail(ErrorCode::kNotFound, "STEM layer {}: the table has layers 0 to {}", layer, shape.layers - 1);
  }
}

void check_address(const TableShape& shape, std::int64_t token, std::int64_t layer) {
  if (token < 0 || token >= shape.vocab) {
    fail(ErrorCode::kNotFound, "token {}: the table has tokens 0 to {}", token, shape.vocab - 1);
  }
  check_layer(shape, layer);
}

/// Reads row (token, layer), or the whole record, into `values`.
void read(const Table& table, std::int64_t token, std::int64_t layer, std::vector<float>& values) {
  const TableShape& shape = table.shape();
  values.resize(static_cast<std::size_t>(layer == kAllLayers ? shape.record() : shape.width));
  table.read_row(token, layer == kAllLayers ? 0 : layer, values);  // the rows of a record lie together
}

void read(const In& records, std::int64_t token, std::int64_t first, std::span<float> values) {
  const std::int64_t at = token * records.stride + first;
  const auto copy = [&](const auto* from) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(from[i]);
  };
  if (records.dtype == DType::f32)
    copy(static_cast<const float*>(records.data) + at);
  else if (records.dtype == DType::bf16)
    copy(static_cast<const bf16*>(records.data) + at);
  else
    copy(static_cast<const double*>(records.data) + at);
}

/// The smallest value that `share` of |cosines| do not exceed.
double quantile_of_magnitude(const std::vector<double>& cosines, double share) {
  if (cosines.empty()) return kNoValue;
  std::vector<double> sizes(cosines.size());
  std::transform(cosines.begin(), cosines.end(), sizes.begin(), [](double c) { return std::abs(c); });
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(share * static_cast<double>(sizes.size()))) - 1;
  const auto at = sizes.begin() + std::max<std::ptrdiff_t>(rank, 0);
  std::nth_element(sizes.begin(), at, sizes.end());
  return *at;
}

double round_range(const std::vector<std::vector<double>>& trained,
                   const std::vector<std::vector<double>>& initial) {
  std::vector<double> all;
  for (const auto& cosines : trained) all.insert(all.end(), cosines.begin(), cosines.end());
  for (const auto& cosines : initial) all.insert(all.end(), cosines.begin(), cosines.end());
  const double reach = quantile_of_magnitude(all, 0.995);
  for (const double range : {0.02, 0.05, 0.1, 0.2, 0.3, 0.5}) {
    if (reach <= range) return range;
  }
  return 1.0;
}

std::vector<double> shares(const std::vector<double>& cosines, double range, std::int64_t bins) {
  if (cosines.empty()) return {};
  std::vector<double> share(static_cast<std::size_t>(bins), 0.0);
  for (const double c : cosines) {
    const auto bin =
        static_cast<std::int64_t>(std::floor((c + range) / (2 * range) * static_cast<double>(bins)));
    share[static_cast<std::size_t>(std::clamp<std::int64_t>(bin, 0, bins - 1))] += 1.0;
  }
  for (double& s : share) s /= static_cast<double>(cosines.size());
  return share;
}

void check_arguments(const Table& trained, const In& initial, std::span<const std::int64_t> counts,
                     const CosineOptions& options) {
  const TableShape& shape = trained.shape();
  if (initial && (initial.rows != shape.vocab || initial.cols != shape.record())) {
    fail(ErrorCode::kMismatch, "initial table: expected [{}, {}] like the trained one, found [{}, {}]",
         shape.vocab, shape.record(), initial.rows, initial.cols);
  }
  require(
      !initial || initial.dtype == DType::f32 || initial.dtype == DType::bf16 || initial.dtype == DType::f64,
      "records are f32, bf16 or f64");
  if (std::cmp_not_equal(counts.size(), shape.vocab)) {
    fail(ErrorCode::kMismatch, "token counts: expected {} like the table's tokens, found {}", shape.vocab,
         counts.size());
  }
  check_layer(shape, options.layer);
  const auto in_range = [](std::string_view name, std::int64_t value, std::int64_t max) {
    if (value < 1 || value > max) {
      fail(ErrorCode::kUsage, "{}: expected a number from 1 to {}, found {}", name, max, value);
    }
  };
  in_range("pairs", options.pairs, 10'000'000);
  in_range("bins", options.bins, 1000);
  if (!(options.range >= 0 && options.range <= 1)) {
    fail(ErrorCode::kUsage, "range: expected a number from 0 to 1, found {}", options.range);
  }
}

}  // namespace

double cosine(std::span<const float> u, std::span<const float> v) {
  require(u.size() == v.size(), "cosine of two lengths");
  double dot = 0, uu = 0, vv = 0;
  for (std::size_t i = 0; i < u.size(); ++i) {
    const double a = u[i], b = v[i];
    dot += a * b, uu += a * a, vv += b * b;
  }
  const double size = std::sqrt(uu) * std::sqrt(vv);
  return size > 0 && std::isfinite(size) && std::isfinite(dot) ? std::clamp(dot / size, -1.0, 1.0) : kNoValue;
}

double row_norm(const Table& table, std::int64_t token, std::int64_t layer) {
  check_address(table.shape(), token, layer);
  std::vector<float> values;
  read(table, token, layer, values);
  double sum = 0;
  for (const double v : values) sum += v * v;
  return std::sqrt(sum);
}

std::vector<Neighbour> nearest_rows(const Table& table, std::int64_t layer, std::int64_t token,
                                    std::int64_t k) {
  check_address(table.shape(), token, layer);
  if (k <= 0) return {};
  std::vector<float> mine, other;
  read(table, token, layer, mine);
  const auto better = [](const Neighbour& a, const Neighbour& b) {
    return a.cosine > b.cosine || (a.cosine == b.cosine && a.token < b.token);
  };
  std::vector<Neighbour> best;  // a heap with the worst on top
  for (std::int64_t t = 0; t < table.shape().vocab; ++t) {
    if (t == token) continue;
    read(table, t, layer, other);
    const Neighbour candidate{static_cast<std::int32_t>(t), cosine(mine, other)};
    if (std::isnan(candidate.cosine)) continue;
    if (std::cmp_greater_equal(best.size(), k)) {
      if (!better(candidate, best.front())) continue;
      std::pop_heap(best.begin(), best.end(), better);
      best.pop_back();
    }
    best.push_back(candidate);
    std::push_heap(best.begin(), best.end(), better);
  }
  std::sort_heap(best.begin(), best.end(), better);
  return best;
}

CosineHistogram cosine_histogram(const Table& trained, In initial_records,
                                 std::span<const std::int64_t> counts, const CosineOptions& options) {
  check_arguments(trained, initial_records, counts, options);
  const TableShape& shape = trained.shape();
  const auto width = static_cast<std::size_t>(shape.width);
  std::vector<float> u(width), v(width);
  std::vector<std::vector<double>> after(options.buckets.size()), before(options.buckets.size());
  CosineHistogram histogram;
  for (std::size_t b = 0; b < options.buckets.size(); ++b) {
    const FrequencyBucket& bucket = options.buckets[b];
    std::vector<std::int64_t> tokens;
    for (std::int64_t t = 0; t < shape.vocab; ++t) {
      const std::int64_t count = counts[static_cast<std::size_t>(t)];
      if (count >= bucket.min_count && count <= bucket.max_count) tokens.push_back(t);
    }
    histogram.buckets.push_back(
        {bucket.name, static_cast<std::int64_t>(tokens.size()), 0, {}, {}, kNoValue, kNoValue});
    if (tokens.size() < 2 || shape.layers == 0) continue;
    Rng rng(options.seed, b);
    for (std::int64_t pair = 0; pair < options.pairs; ++pair) {
      const std::size_t i = rng.below(tokens.size());
      const std::size_t j = (i + 1 + rng.below(tokens.size() - 1)) % tokens.size();  // never i itself
      const auto drawn = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(shape.layers)));
      const std::int64_t layer = options.layer == kAllLayers ? drawn : options.layer;
      trained.read_row(tokens[i], layer, u);
      trained.read_row(tokens[j], layer, v);
      const double c = cosine(u, v);
      if (std::isnan(c)) continue;
      after[b].push_back(c);
      if (!initial_records) continue;
      read(initial_records, tokens[i], layer * shape.width, u);
      read(initial_records, tokens[j], layer * shape.width, v);
      const double c0 = cosine(u, v);
      if (!std::isnan(c0)) before[b].push_back(c0);
    }
  }
  const double range = options.range > 0 ? options.range : round_range(after, before);
  for (std::int64_t i = 0; i <= options.bins; ++i) {
    histogram.edges.push_back(range *
                              (2.0 * static_cast<double>(i) / static_cast<double>(options.bins) - 1.0));
  }
  for (std::size_t b = 0; b < after.size(); ++b) {
    CosineBucket& bucket = histogram.buckets[b];
    bucket.pairs = static_cast<std::int64_t>(after[b].size());
    bucket.trained = shares(after[b], range, options.bins);
    bucket.initial = shares(before[b], range, options.bins);
    bucket.p95_trained = quantile_of_magnitude(after[b], 0.95);
    bucket.p95_initial = quantile_of_magnitude(before[b], 0.95);
  }
  histogram.gaussian_p95 = 1.96 / std::sqrt(static_cast<double>(std::max<std::int64_t>(shape.width, 1)));
  return histogram;
}

}  // namespace stem
