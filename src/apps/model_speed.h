// How fast a model reads prompts and writes answers here: one sequence, ids by Zipf's law.
#pragma once

#include <cstdint>
#include <vector>

#include "apps/patched_model.h"
#include "core/trace.h"
#include "tables/record_store.h"

namespace stem {

struct SpeedOptions {
  std::int64_t prompt = 512, decode = 64;  ///< tokens
  std::int64_t repeats = 3;                ///< after one run that does not count
  bool cold = false;  ///< a table on disk: nothing of it in memory before each prompt and answer
};

struct Timing {
  std::vector<double> prefill, decode,
      token;                                // seconds: of each prompt, of each answer, of each of its tokens
  double prompt_rows = 0, decode_rows = 0;  // distinct tokens, a run
  TableStats prompt_reads, decode_reads;    // of a table on disk, all runs
};

Timing measure_speed(Runtime& runtime, const PatchedModel& opened, const SpeedOptions& options,
                     TraceWriter* trace = nullptr);

/// What one token reads of the dense weights, bytes: every matrix once, the head too; of an untied embedding
/// one row.
double weight_bytes(const Model& model);

double percentile(std::vector<double> values, double share);
double median(std::vector<double> values);

}  // namespace stem
