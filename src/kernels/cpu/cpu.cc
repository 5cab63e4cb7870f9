// The table of the cpu backend, its threads and their floating-point mode.
#include "kernels/cpu/cpu.h"

#include <omp.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "hwy/highway.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/served_panels.h"

namespace stem {
namespace {

// Denormal numbers slow AVX code down by a factor of ten and more, and carry no information here.
void flush_denormals() {
#if defined(__x86_64__)
  _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
  _mm_setcsr(_mm_getcsr() | 0x0040u);  // denormals are zero
#elif defined(__aarch64__)
  std::uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  asm volatile("msr fpcr, %0" ::"r"(fpcr | (1u << 24)));
#endif
}

void flush_denormals_everywhere() {
#pragma omp parallel
  flush_denormals();
}

Kernels make_kernels() {
  flush_denormals_everywhere();
  Kernels kernels;
  kernels.name = "cpu";
  kernels.gemm = cpu::gemm_kernels();
  kernels.served = cpu::served_kernels();
  kernels.norm = cpu::norm_kernels();
  kernels.bias = cpu::bias_kernels();
  kernels.rope = cpu::rope_kernels();
  kernels.attention = cpu::attention_kernels();
  kernels.glu = cpu::glu_kernels();
  kernels.moe = cpu::moe_kernels();
  kernels.embedding = cpu::embedding_kernels();
  kernels.loss = cpu::loss_kernels();
  kernels.optimizer = cpu::optimizer_kernels();
  return kernels;
}

// The vector instructions that Highway's kernels use.
std::string hwy_target() {
  const auto targets = hwy::SupportedTargets();
#if HWY_ARCH_X86
  return (targets & HWY_AVX3) != 0   ? "avx512"
         : (targets & HWY_AVX2) != 0 ? "avx2"
         : (targets & HWY_SSE4) != 0 ? "sse4"
                                     : "scalar";
#else
  return hwy::TargetName(targets & -targets);
#endif
}

// libgomp read OMP_NUM_THREADS and the affinity mask before main.
const int initial_threads = omp_get_max_threads();

}  // namespace

const Kernels& cpu_kernels() {
  static const Kernels kernels = make_kernels();
  // The mode belongs to a thread, and another engine thread brings its own workers.
  thread_local const bool ready = (flush_denormals_everywhere(), true);
  (void)ready;
  return kernels;
}

void set_cpu_threads(int threads) {
  require(threads >= 0, "a negative number of threads");
  omp_set_num_threads(threads == 0 ? initial_threads : threads);
  flush_denormals_everywhere();
}

int cpu_threads() {
  return omp_get_max_threads();
}

std::string cpu_description() {
  return cpu::gemm_instruction_set() + hwy_target();
}

std::vector<KernelChoice> cpu_kernel_choices() {
  const bool tiles = cpu::amx_supported(), vnni = cpu::vnni_supported();
  const std::string vectors = "vectors (" + hwy_target() + ")";
  const std::string for_prompts = tiles ? "AMX-BF16 tiles" : vnni ? "AVX-512 VNNI" : vectors;
  return {{"training, bf16 products and attention", tiles ? "AMX-BF16 tiles" : "oneDNN, " + vectors},
          {"training, f32", "oneDNN, " + vectors},
          {"bf16 weights", tiles ? "AMX-BF16 tiles" : vectors},
          {"int8 and int4 weights, prompts", for_prompts},
          {"int8 and int4 weights, token by token", vnni ? "AVX-512 VNNI" : vectors},
          {"attention to bf16 keys", tiles ? "AMX-BF16 tiles" : vectors},
          {"everything else", vectors}};
}

}  // namespace stem
