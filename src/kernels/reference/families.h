// The families of reference kernels, gathered into one table by reference.cc.
#pragma once

#include "kernels/kernels.h"

namespace stem::reference {

GemmKernels gemm_kernels();
ServedKernels served_kernels();
NormKernels norm_kernels();
BiasKernels bias_kernels();
RopeKernels rope_kernels();
AttentionKernels attention_kernels();
GluKernels glu_kernels();
MoeKernels moe_kernels();
EmbeddingKernels embedding_kernels();
LossKernels loss_kernels();
OptimizerKernels optimizer_kernels();

}  // namespace stem::reference
