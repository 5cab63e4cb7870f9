// The fast backend: oneDNN GEMM, Highway SIMD with run-time dispatch, OpenMP. f32 and bf16; no f64.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace stem {

const Kernels& cpu_kernels();

/// Number of threads that parallel regions use. 0 resets to the number of available cores.
void set_cpu_threads(int threads);
int cpu_threads();

/// Instruction sets in use, for `stem info` and logs, for example "amx-bf16 avx512".
std::string cpu_description();

/// What runs on this CPU, part by part, and why where it is not the fastest there is.
struct KernelChoice {
  std::string work, choice;
};
std::vector<KernelChoice> cpu_kernel_choices();

/// Measures for about 30 ms whether bf16 GEMM beats f32 at [rows, inner] x [cols, inner]ᵀ on this machine.
bool bf16_gemm_is_faster(std::int64_t rows, std::int64_t inner, std::int64_t cols);

}  // namespace stem
