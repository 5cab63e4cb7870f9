// Processor time of every kernel of a backend, all threads together: a copy of its table whose functions are
// wrapped. Processor time, because on a shared machine the wall clock also counts what other programs do.
#pragma once

#include <time.h>

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"

namespace stem::bench {

struct KernelTime {
  std::string name;
  double seconds = 0.0;
  std::int64_t calls = 0;
};

inline double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline std::array<KernelTime, 64> kernel_times;          // one slot a kernel; one engine thread calls
inline std::array<void (*)(), 64> wrapped_kernels = {};  // the functions behind the wrappers

template <std::size_t kSlot, class R, class... A>
R timed_kernel(A... arguments) {
  struct Clock {
    double start = processor_seconds();
    ~Clock() {
      kernel_times[kSlot].seconds += processor_seconds() - start;
      ++kernel_times[kSlot].calls;
    }
  } clock;
  return reinterpret_cast<R (*)(A...)>(wrapped_kernels[kSlot])(arguments...);
}

template <std::size_t kSlot, class R, class... A>
void wrap_kernel(R (*&function)(A...), const char* name) {
  wrapped_kernels[kSlot] = reinterpret_cast<void (*)()>(function);
  kernel_times[kSlot].name = name;
  function = timed_kernel<kSlot, R, A...>;
}

/// `kernels` with a clock around every function that training calls. One profile in a program.
inline Kernels profiled(Kernels kernels) {
  wrap_kernel<0>(kernels.gemm.gemm, "gemm");
  wrap_kernel<1>(kernels.norm.rms_norm_forward, "rms_norm_forward");
  wrap_kernel<2>(kernels.norm.rms_norm_backward, "rms_norm_backward");
  wrap_kernel<3>(kernels.rope.rope, "rope");
  wrap_kernel<4>(kernels.attention.attention_forward, "attention_forward");
  wrap_kernel<5>(kernels.attention.attention_backward, "attention_backward");
  wrap_kernel<6>(kernels.glu.swiglu_forward, "swiglu_forward");
  wrap_kernel<7>(kernels.glu.swiglu_backward, "swiglu_backward");
  wrap_kernel<8>(kernels.glu.stem_forward, "stem_forward");
  wrap_kernel<9>(kernels.glu.stem_backward, "stem_backward");
  wrap_kernel<10>(kernels.glu.stem_gate_forward, "stem_gate_forward");
  wrap_kernel<11>(kernels.glu.stem_gate_backward, "stem_gate_backward");
  wrap_kernel<12>(kernels.glu.stem_additive_forward, "stem_additive_forward");
  wrap_kernel<13>(kernels.glu.stem_additive_backward, "stem_additive_backward");
  wrap_kernel<14>(kernels.embedding.gather, "embedding_gather");
  wrap_kernel<15>(kernels.embedding.scatter, "embedding_scatter");
  wrap_kernel<16>(kernels.embedding.scatter_dense, "embedding_scatter_dense");
  wrap_kernel<17>(kernels.loss.softmax_cross_entropy, "softmax_cross_entropy");
  wrap_kernel<18>(kernels.optimizer.adamw, "adamw");
  wrap_kernel<19>(kernels.optimizer.adamw_rows, "adamw_rows");
  wrap_kernel<20>(kernels.optimizer.squared_norm, "squared_norm");
  wrap_kernel<21>(kernels.optimizer.convert, "convert");
  wrap_kernel<22>(kernels.gemm.pack, "gemm_pack");
  wrap_kernel<23>(kernels.gemm.gemm_packed, "gemm_packed");
  wrap_kernel<24>(kernels.gemm.gemm_group, "gemm_group");
  return kernels;
}

inline void reset_profile() {
  for (KernelTime& t : kernel_times) t.seconds = 0.0, t.calls = 0;
}

}  // namespace stem::bench
