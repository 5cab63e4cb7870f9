// The backend, threads and scratch memory of one process.
#pragma once

#include <string>

#include "apps/settings.h"
#include "ops/context.h"

namespace stem {

/// Owns what a Context points to. One per process; contexts live as long as it.
class Runtime {
 public:
  Runtime();
  Context training();   ///< throughput kernels
  Context inference();  ///< batch-invariant kernels

 private:
  Workspace workspace_;
};

/// Types of a training run: `setting` is auto (bf16 where a short calibration at this model's shapes finds it
/// faster), f32, bf16.
Precision training_precision(const std::string& setting, const ModelConfig& config,
                             std::int64_t tokens_per_step);

/// "2 threads, amx-bf16 avx512": for logs and reports.
std::string machine_text();

}  // namespace stem
