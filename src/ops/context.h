// What every op needs besides its operands.
#pragma once

#include "core/workspace.h"
#include "kernels/kernels.h"

namespace stem {

/// Kernels of the backend and scratch memory. `inference` picks the batch-invariant kernels (architecture: an
/// output element has one summation order however many rows are computed with it).
struct Context {
  const Kernels* kernels = nullptr;
  Workspace* workspace = nullptr;
  bool inference = false;
};

/// An opaque handle to a linear layer's weight [out, in]: plain values in the GEMM's type, or, for inference
/// alone, the backend's own form of bf16, int8 or 4-bit values. A quantised model is the same model.
struct Weight {
  In values = {};
  ServedMatrix served = {};  ///< in place of `values` where it has data

  std::int64_t out_features() const { return served ? served.rows : values.rows; }
  std::int64_t in_features() const { return served ? served.cols : values.cols; }
  explicit operator bool() const { return served || values; }
};

}  // namespace stem
