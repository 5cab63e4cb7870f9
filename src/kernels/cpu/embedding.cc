// Token embedding: rows out, row gradients in.
#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

void gather(Out x, const RowPointers& rows) {
#pragma omp parallel for schedule(static) if (x.size() > kParallelElements)
  for (std::int64_t n = 0; n < x.rows; ++n) {
    alignas(64) float buffer[kRowChunk];
    for (std::int64_t first = 0; first < x.cols; first += kRowChunk) {
      const std::int64_t count = std::min(kRowChunk, x.cols - first);
      std::copy_n(row_values(rows.at[n], first, count, buffer), count, x.row<float>(n) + first);
    }
  }
}

/// total += the rows of d_x at the positions of group r, in ascending order.
void add_group(float* total, const RowGradients& groups, std::int64_t r, In d_x) {
  for (std::int32_t p = groups.offsets[r]; p < groups.offsets[r + 1]; ++p) {
    const float* const row = d_x.row<float>(groups.positions[p]);
    for_vectors(d_x.cols, [&](std::int64_t i, auto part) HWY_ATTR {
      store(hn::Add(load(total + i, part), load(row + i, part)), total + i, part);
    });
  }
}

void scatter(const RowGradients& d_rows, In d_x) {
  require(d_rows.dtype == DType::f32 || d_rows.distinct == 0, "row gradients are f32");
#pragma omp parallel for schedule(dynamic, 16) if (d_x.size() > kParallelElements)
  for (std::int64_t r = 0; r < d_rows.distinct; ++r) {
    add_group(static_cast<float*>(d_rows.grads) + r * d_rows.stride, d_rows, r, d_x);
  }
}

void scatter_dense(Out d_table, const RowGradients& groups, std::span<const std::int32_t> tokens, In d_x) {
#pragma omp parallel for schedule(dynamic, 16) if (d_x.size() > kParallelElements)
  for (std::int64_t r = 0; r < groups.distinct; ++r) {
    add_group(d_table.row<float>(tokens[static_cast<std::size_t>(r)]), groups, r, d_x);
  }
}

}  // namespace

EmbeddingKernels embedding_kernels() {
  return {gather, scatter, scatter_dense};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(embedding_kernels);
EmbeddingKernels embedding_kernels() {
  return HWY_DYNAMIC_DISPATCH(embedding_kernels)();
}
}  // namespace stem::cpu
#endif
