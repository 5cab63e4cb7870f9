// Matrix products: our own tiles for bf16 where the CPU has them (gemm_amx.cc), everything else through
// oneDNN; the only file that knows it (its C++ API changed between 2.x and 3.x).
//
// Making a primitive costs 0.1–1.3 ms, running it a few µs plus the arithmetic, so primitives are kept by
// shape, strides and dtypes. One engine thread calls (architecture: "OpenMP"), hence thread_local and no
// lock.
#include <time.h>

#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "core/workspace.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/gemm_amx.h"

namespace stem::cpu {
namespace {

using dnnl::memory;

struct GemmKey {
  std::int64_t m, n, k, stride_a, stride_b, stride_c;
  DType type, type_c;
  bool transpose_a, transpose_b, accumulate;
  int threads;

  bool operator==(const GemmKey&) const = default;
};

struct GemmKeyHash {
  std::size_t operator()(const GemmKey& key) const {
    std::uint64_t h = 0;
    const auto mix = [&h](std::int64_t value) {
      h = (h ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
      h ^= h >> 29;
    };
    for (std::int64_t value : {key.m, key.n, key.k, key.stride_a, key.stride_b, key.stride_c}) mix(value);
    mix(static_cast<int>(key.type) * 64 + static_cast<int>(key.type_c) * 8 + key.transpose_a * 4 +
        key.transpose_b * 2 + key.accumulate);
    mix(key.threads);
    return static_cast<std::size_t>(h);
  }
};

/// A primitive with its arguments; the memory objects are bound to new addresses at every call.
struct Gemm {
  dnnl::matmul primitive;
  memory a, b, c;
  std::unordered_map<int, memory> arguments;
};

struct Library {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::unordered_map<GemmKey, Gemm, GemmKeyHash> gemms;
  Buffer scratch;  // f32 copies where the machine has no bf16 product
};

Library& library() {
  thread_local Library instance;
  return instance;
}

// Ragged batches make new shapes for ever; dropping them all is rare and cheap against remaking the few in
// use.
constexpr std::size_t kMaxGemms = 2048;

memory::desc description(std::int64_t rows, std::int64_t cols, std::int64_t stride, bool transposed,
                         DType dtype) {
  const auto type = dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  if (transposed) return {{cols, rows}, type, memory::dims{1, stride}};
  return {{rows, cols}, type, memory::dims{stride, 1}};
}

Gemm make_gemm(Library& lib, const GemmKey& key) {
  const auto a = key.transpose_a ? description(key.k, key.m, key.stride_a, true, key.type)
                                 : description(key.m, key.k, key.stride_a, false, key.type);
  const auto b = key.transpose_b ? description(key.n, key.k, key.stride_b, true, key.type)
                                 : description(key.k, key.n, key.stride_b, false, key.type);
  const auto c = description(key.m, key.n, key.stride_c, false, key.type_c);
  dnnl::primitive_attr attributes;
  if (key.accumulate) {
    dnnl::post_ops post;
    post.append_sum(1.0f);
    attributes.set_post_ops(post);
  }
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc chosen(lib.engine, a, b, c, attributes);
#else
  const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(a, b, c), attributes, lib.engine);
#endif
  Gemm gemm{dnnl::matmul(chosen),
            memory(a, lib.engine, nullptr),
            memory(b, lib.engine, nullptr),
            memory(c, lib.engine, nullptr),
            {}};
  gemm.arguments = {{DNNL_ARG_SRC, gemm.a}, {DNNL_ARG_WEIGHTS, gemm.b}, {DNNL_ARG_DST, gemm.c}};
  return gemm;
}

/// Whether this machine multiplies bf16 matrices at all (AVX-512 from Skylake on; asked once).
bool bf16_supported() {
  static const bool supported = [] {
    try {
      make_gemm(library(), {16, 16, 16, 16, 16, 16, DType::bf16, DType::f32, false, true, false, 1});
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return supported;
}

void run(Out c, In a, bool transpose_a, In b, bool transpose_b, bool accumulate) {
  Library& lib = library();
  const GemmKey key{c.rows,      c.cols,     transpose_a ? a.rows : a.cols,
                    a.stride,    b.stride,   c.stride,
                    a.dtype,     c.dtype,    transpose_a,
                    transpose_b, accumulate, cpu_threads()};
  auto found = lib.gemms.find(key);
  if (found == lib.gemms.end()) {
    if (lib.gemms.size() >= kMaxGemms) lib.gemms.clear();
    found = lib.gemms.emplace(key, make_gemm(lib, key)).first;
  }
  Gemm& gemm = found->second;
  gemm.a.set_data_handle(const_cast<void*>(a.data));
  gemm.b.set_data_handle(const_cast<void*>(b.data));
  gemm.c.set_data_handle(c.data);
  gemm.primitive.execute(lib.stream, gemm.arguments);
}

/// The same through f32 copies, for machines without a bf16 product.
void run_converted(Out c, In a, bool transpose_a, In b, bool transpose_b, bool accumulate) {
  const auto convert = optimizer_kernels().convert;
  Buffer& scratch = library().scratch;
  const std::int64_t copied = a.size() + b.size() + (c.dtype == DType::f32 ? 0 : c.size());
  const std::size_t bytes = static_cast<std::size_t>(copied) * sizeof(float);
  if (scratch.size() < bytes) scratch = Buffer(bytes);
  auto* next = static_cast<float*>(scratch.data());
  const Out wide_a = matrix(next, a.rows, a.cols);
  const Out wide_b = matrix(next += a.size(), b.rows, b.cols);
  convert(wide_a, a);
  convert(wide_b, b);
  if (c.dtype == DType::f32) return run(c, wide_a, transpose_a, wide_b, transpose_b, accumulate);
  const Out wide_c = matrix(next + b.size(), c.rows, c.cols);
  if (accumulate) convert(wide_c, c);
  run(wide_c, wide_a, transpose_a, wide_b, transpose_b, accumulate);
  convert(c, wide_c);
}

void gemm_by_library(Out c, In a, bool transpose_a, In b, bool transpose_b, In add) {
  const bool accumulate = static_cast<bool>(add);
  if (accumulate && add.data != c.data) optimizer_kernels().convert(c, add);
  if (a.dtype == DType::bf16 && !bf16_supported()) {
    return run_converted(c, a, transpose_a, b, transpose_b, accumulate);
  }
  run(c, a, transpose_a, b, transpose_b, accumulate);
}

void gemm(Out c, In a, bool transpose_a, In b, bool transpose_b, In add) {
  require(a.dtype == b.dtype && (a.dtype == DType::f32 || a.dtype == DType::bf16), "gemm takes f32 or bf16");
  require(c.dtype == a.dtype || c.dtype == DType::f32, "gemm writes its inputs' type or f32");
  if (c.size() == 0) return;
  if (a.dtype == DType::bf16 && amx_supported()) return amx_gemm(c, a, transpose_a, b, transpose_b, add);
  gemm_by_library(c, a, transpose_a, b, transpose_b, add);
}

void gemm_group(std::span<const GemmCall> calls) {
  const bool tiles = amx_supported() && std::all_of(calls.begin(), calls.end(), [](const GemmCall& g) {
                       return g.a.dtype == DType::bf16 && g.b.dtype == DType::bf16;
                     });
  if (tiles) return amx_gemm_group(calls);
  for (const GemmCall& g : calls) gemm(g.c, g.a, g.transpose_a, g.b, g.transpose_b, g.add);
}

std::size_t packed_bytes(In b, bool transpose_b) {
  return b.dtype == DType::bf16 && amx_supported() ? amx_packed_bytes(b, transpose_b) : 0;
}

void gemm_packed(Out c, In a, bool transpose_a, In b, bool transpose_b, const void* packed, In add) {
  if (c.size() > 0) amx_gemm(c, a, transpose_a, b, transpose_b, add, packed);
}

/// Processor time of this thread: other programs on a busy machine do not count.
double seconds_of_gemm(Out c, In a, In b) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double start = now();
  gemm(c, a, false, b, true, {});
  return now() - start;
}

}  // namespace

GemmKernels gemm_kernels() {
  return {gemm, gemm_group, packed_bytes, amx_pack, gemm_packed, linear_invariant_kernel()};
}

decltype(GemmKernels::gemm) library_gemm() {
  return gemm_by_library;
}

std::string gemm_instruction_set() {
  std::string name = bf16_supported() ? "bf16-gemm " : "";
#if defined(__x86_64__)
  const int isa = static_cast<int>(dnnl::get_effective_cpu_isa());
  const auto has = [isa](int set) { return (isa & set) == set; };
  if (has(dnnl_cpu_isa_avx512_core_amx)) {
    name = "amx-bf16 avx512-bf16 ";
  } else if (has(dnnl_cpu_isa_avx512_core_bf16)) {
    name = "avx512-bf16 ";
  }
#endif
  return name;
}

}  // namespace stem::cpu

namespace stem {

bool bf16_gemm_is_faster(std::int64_t rows, std::int64_t inner, std::int64_t cols) {
  if (!cpu::bf16_supported()) return false;
  cpu_kernels();
  const int threads = cpu_threads();
  set_cpu_threads(1);
  const Tensor x(DType::f32, rows, inner), w(DType::f32, cols, inner), y(DType::f32, rows, cols);
  const Tensor x16(DType::bf16, rows, inner), w16(DType::bf16, cols, inner), y16(DType::bf16, rows, cols);
  cpu::seconds_of_gemm(y, x, w);  // makes the primitives
  cpu::seconds_of_gemm(y16, x16, w16);
  // In turn, and the best of each: a neighbour on the same core slows both for a while.
  double f32_seconds = 1e30, bf16_seconds = 1e30, spent = 0;
  for (int i = 0; i < 3 || spent < 0.03; ++i) {
    const double f32_now = cpu::seconds_of_gemm(y, x, w), bf16_now = cpu::seconds_of_gemm(y16, x16, w16);
    f32_seconds = std::min(f32_seconds, f32_now);
    bf16_seconds = std::min(bf16_seconds, bf16_now);
    spent += f32_now + bf16_now;
  }
  set_cpu_threads(threads);
  return bf16_seconds < f32_seconds;
}

}  // namespace stem
