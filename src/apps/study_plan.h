// What a study of variants trains: which models, with which seeds and learning rates, in which order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/settings.h"
#include "data/token_shard.h"

namespace stem {

/// One model of a study.
struct StudyVariant {
  std::string name;        ///< "third"
  std::string definition;  ///< one sentence for the page
  Settings settings;       ///< the study's, with what makes this variant
};

/// dense, dense_matched, hash_moe, moe, third, half, full, stem_gate, stem_additive.
const std::vector<std::string>& study_variant_names();

/// The variants `names` (all when empty) over `base`, for a vocabulary of `vocab`. Mixtures and the two
/// ablations stand in the layers of `third`. `distinct` is the mean number of distinct tokens in a training
/// sequence: a sequence switches on distinct·F·S values of a table, and dense_matched is the dense model
/// whose F is enlarged until it has as many parameters as third's dense part and those values together.
/// Throws kUsage naming an unknown variant.
std::vector<StudyVariant> study_variants(const Settings& base, std::int64_t vocab, double distinct,
                                         const std::vector<std::string>& names);

/// Mean distinct tokens in runs of `sequence` tokens of the shard's first million.
double distinct_in_sequence(const TokenShard& shard, std::int64_t sequence);

/// One training run of a study.
struct StudyRun {
  std::size_t variant = 0;  ///< index
  std::int64_t seed = 1;    ///< of weights and data order
  double lr = 0;            ///< of the backbone; the tables' keeps its ratio to it
  bool stability = false;   ///< of the second part: over learning rates
  std::string name;         ///< its directory, "third-seed1", "third-lr0.01-seed1"
};

/// All runs in order: seed by seed through the variants, so that an unfinished study compares what it has;
/// then the learning rates `rates`, with the first seed, where they are not the study's own.
std::vector<StudyRun> study_runs(const std::vector<StudyVariant>& variants, std::int64_t seeds,
                                 const std::vector<double>& rates);

/// The settings of one run.
Settings settings_of(const StudyVariant& variant, const StudyRun& run);

}  // namespace stem
