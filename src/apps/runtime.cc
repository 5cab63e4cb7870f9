#include "apps/runtime.h"

#include "kernels/cpu/cpu.h"

namespace stem {

Runtime::Runtime() {
  set_cpu_threads(0);
}

Context Runtime::training() {
  return {&cpu_kernels(), &workspace_, false};
}

Context Runtime::inference() {
  return {&cpu_kernels(), &workspace_, true};
}

Precision training_precision(const std::string& setting, const ModelConfig& config,
                             std::int64_t tokens_per_step) {
  const bool bf16 = setting == "bf16" ||
                    (setting == "auto" && bf16_gemm_is_faster(tokens_per_step, config.width, config.ffn));
  return {DType::f32, bf16 ? DType::bf16 : DType::f32};
}

std::string machine_text() {
  const int threads = cpu_threads();
  return fmt::format("{} thread{}, {}", threads, threads == 1 ? "" : "s", cpu_description());
}

}  // namespace stem
