// The geometry of a trained table: how long its rows are, and how far apart they point.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "tables/table.h"

namespace stem {

/// In place of a STEM layer (0 .. S-1): all of them.
inline constexpr std::int64_t kAllLayers = -1;

/// ‖u‖₂ of row (token, layer), or of the whole record (S·F values) with kAllLayers. Values are read as f32,
/// sums are f64. Throws kNotFound for a token >= V or a layer >= S.
double row_norm(const Table& table, std::int64_t token, std::int64_t layer);

/// cos(u, v) = u·v / (‖u‖ ‖v‖), in [-1, 1]; NaN when either is all zeros or holds a value that is not finite.
/// `u` and `v` are of one length.
double cosine(std::span<const float> u, std::span<const float> v);

struct Neighbour {
  std::int32_t token = 0;
  double cosine = 0;
};

/// The `k` tokens whose rows in `layer` (records with kAllLayers) point most nearly where the row of `token`
/// points, best first, ties by ascending id; without `token` itself and without rows of zeros. Reads the
/// whole table once. Throws kNotFound for a token >= V or a layer >= S.
std::vector<Neighbour> nearest_rows(const Table& table, std::int64_t layer, std::int64_t token,
                                    std::int64_t k);

/// Tokens seen between `min_count` and `max_count` times in training, both included.
struct FrequencyBucket {
  std::string name;
  std::int64_t min_count = 0;
  std::int64_t max_count = std::numeric_limits<std::int64_t>::max();
};

struct CosineOptions {
  std::int64_t layer = kAllLayers;  ///< one STEM layer; kAllLayers: every pair draws its own
  std::int64_t pairs =
      20'000;  ///< pairs of distinct tokens drawn per bucket, with replacement, at most 10 million
  std::int64_t bins = 40;  ///< 1 .. 1000
  double range = 0;  ///< bins cover [-range, range]; 0: the nearest round number that holds 99.5 % of all
  std::uint64_t seed = 0;
  std::vector<FrequencyBucket> buckets = {
      {"seen 1–9 times", 1, 9}, {"seen 10–99 times", 10, 99}, {"seen 100+ times", 100}};
};

/// The tokens of one frequency bucket. The same pairs are measured in both tables.
struct CosineBucket {
  std::string name;
  std::int64_t rows = 0;        ///< tokens in the bucket
  std::int64_t pairs = 0;       ///< pairs measured; those with a row of zeros in the trained table are not
  std::vector<double> trained;  ///< [bins] share of the pairs; sums to 1, empty when pairs = 0
  std::vector<double> initial;  ///< [bins] likewise; empty without an initial table
  double p95_trained = 0;       ///< 95 % of the pairs have |cos| <= this; NaN when pairs = 0
  double p95_initial = 0;       ///< NaN without an initial table
};

struct CosineHistogram {
  std::vector<double> edges;  ///< [bins + 1], ascending; the outermost bins also hold what lies beyond
  std::vector<CosineBucket> buckets;
  double gaussian_p95 = 0;  ///< 1.96/√F: P95 |cos| of two independent Gaussian vectors of width F
};

/// How widely the rows spread, by how often their token was seen, next to the same rows before training: rows
/// that are never updated keep the angles they were drawn with, so a trained table means nothing without that
/// control. `initial_records` [V, S·F] f32, bf16 or f64, may be absent; `counts` [V], times each token was
/// seen. The same arguments give the same numbers. Throws kMismatch when shapes disagree, kNotFound for a
/// layer >= S, kUsage for options out of range. Source: stem-spec §7 (angular spread).
CosineHistogram cosine_histogram(const Table& trained, In initial_records,
                                 std::span<const std::int64_t> counts, const CosineOptions& options = {});

}  // namespace stem
