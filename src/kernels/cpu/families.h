// The kernel families of the cpu backend, each made for the best instruction set of this machine.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/kernels.h"

namespace stem::cpu {

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

/// Parts of a family that live in a file of their own; gemm_kernels and attention_kernels collect them.
using LinearInvariant = decltype(GemmKernels::linear_invariant);
LinearInvariant linear_invariant_kernel();
using AttentionBackward = decltype(AttentionKernels::attention_backward);
AttentionBackward attention_backward_kernel();

/// GemmKernels::gemm through oneDNN alone: what the benchmarks compare our own product with.
decltype(GemmKernels::gemm) library_gemm();

/// The instruction sets that the GEMM library picks from, for example "amx-bf16 avx512".
std::string gemm_instruction_set();

/// Elements below which a parallel region costs more than it saves (entering one takes 1–5 µs).
constexpr std::int64_t kParallelElements = 8192;

}  // namespace stem::cpu
