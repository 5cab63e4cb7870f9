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

/// An opaque handle to a linear layer's weight [out, in]. Today plain values in the GEMM's type; packing and
/// scales (int8, 4-bit) will be added here, so that a quantised model is the same model.
struct Weight {
  In values;

  std::int64_t out_features() const { return values.rows; }
  std::int64_t in_features() const { return values.cols; }
};

}  // namespace stem
