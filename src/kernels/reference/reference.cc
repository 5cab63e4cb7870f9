#include "kernels/reference/reference.h"

#include "kernels/reference/families.h"

namespace stem {

const Kernels& reference_kernels() {
  static const Kernels kernels{
      .name = "reference",
      .gemm = reference::gemm_kernels(),
      .served = reference::served_kernels(),
      .norm = reference::norm_kernels(),
      .bias = reference::bias_kernels(),
      .rope = reference::rope_kernels(),
      .attention = reference::attention_kernels(),
      .glu = reference::glu_kernels(),
      .moe = reference::moe_kernels(),
      .embedding = reference::embedding_kernels(),
      .loss = reference::loss_kernels(),
      .optimizer = reference::optimizer_kernels(),
  };
  return kernels;
}

}  // namespace stem
