// Times the kernels of the cpu backend at the shapes of small models; prints one line a kernel.
//
//   kernels_bench [width] [inner] [tokens] [vocabulary] [sequence]      default: 128 512 2048 6000 512
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "bench/sample.h"
#include "kernels/cpu/cpu.h"

namespace stem {
namespace {

/// With one thread its own processor time, so that other programs do not count; with more the wall clock.
double now() {
  if (cpu_threads() == 1) {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Prints the best and the median time of a call, and the rate at the best: `work` operations or bytes.
void report(const std::string& name, double work, const char* unit, const std::function<void()>& call) {
  call();
  std::vector<double> seconds;
  double spent = 0;
  while (seconds.size() < 5 || (spent < 0.15 && seconds.size() < 2000)) {
    const double start = now();
    call();
    seconds.push_back(now() - start);
    spent += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  std::printf("%-44s %9.1f us best %9.1f us median %8.1f %s\n", name.c_str(), 1e6 * seconds.front(),
              1e6 * seconds[seconds.size() / 2], work / seconds.front() * 1e-9, unit);
}

struct Sizes {
  std::int64_t width, inner, tokens, vocabulary, sequence;
};

std::vector<Segment> split(std::int64_t tokens, std::int64_t length) {
  std::vector<Segment> segments;
  for (std::int64_t row = 0; row < tokens; row += length) {
    const std::int64_t count = std::min(length, tokens - row);
    segments.push_back({row, count, row, count});
  }
  return segments;
}

void bench_gemm(const Sizes& s, DType type) {
  const auto& gemm = cpu_kernels().gemm;
  const auto product = [&](const char* name, std::int64_t rows, std::int64_t in, std::int64_t out) {
    const Tensor x = bench::random_tensor(type, rows, in, 1), w = bench::random_tensor(type, out, in, 2);
    const Tensor d_y = bench::random_tensor(type, rows, out, 3);
    const Tensor y(type, rows, out), y_wide(DType::f32, rows, out), d_x(type, rows, in),
        d_w(DType::f32, out, in);
    const double flop = 2.0 * static_cast<double>(rows * in * out);
    const std::string label = std::string(name) + " " + std::string(name_of(type));
    report(label + " y = x wT", flop, "GFLOP/s", [&] { gemm.gemm(y, x, false, w, true, {}); });
    report(label + " y += x wT (f32)", flop, "GFLOP/s",
           [&] { gemm.gemm(y_wide, x, false, w, true, y_wide); });
    report(label + " dx = dy w", flop, "GFLOP/s", [&] { gemm.gemm(d_x, d_y, false, w, false, {}); });
    report(label + " dw += dyT x", flop, "GFLOP/s", [&] { gemm.gemm(d_w, d_y, true, x, false, d_w); });
  };
  product("attention", s.tokens, s.width, s.width);
  product("gate", s.tokens, s.width, s.inner);
  product("down", s.tokens, s.inner, s.width);
  product("head", 512, s.width, s.vocabulary);
  for (const std::int64_t rows : {1, 4, 64, 512}) {
    const Tensor x = bench::random_tensor(DType::f32, rows, s.width, 1),
                 w = bench::random_tensor(type, s.inner, s.width, 2);
    const Tensor y(DType::f32, rows, s.inner);
    const std::string label = "invariant gate " + std::string(name_of(type)) + " M=" + std::to_string(rows);
    report(label, 2.0 * static_cast<double>(rows * s.width * s.inner), "GFLOP/s",
           [&] { gemm.linear_invariant(y, x, w, false); });
  }
  const Tensor x = bench::random_tensor(DType::f32, 1, s.width, 1),
               w = bench::random_tensor(type, s.vocabulary, s.width, 2);
  const Tensor y(DType::f32, 1, s.vocabulary);
  report("invariant head " + std::string(name_of(type)) + " M=1",
         static_cast<double>(s.vocabulary * s.width * size_of(type)), "GB/s",
         [&] { gemm.linear_invariant(y, x, w, false); });
}

void bench_attention(const Sizes& s, DType type) {
  const Heads heads{s.width / 32, s.width / 32, 32};
  const auto make = [&](std::uint64_t seed) { return bench::random_tensor(type, s.tokens, s.width, seed); };
  const Tensor q = make(1), k = make(2), v = make(3), d_y = make(4), y = make(5), d_q = make(6),
               d_k = make(7), d_v = make(8);
  const Tensor lse(DType::f32, s.tokens, heads.query);
  for (const std::int64_t length : {std::int64_t{60}, s.sequence}) {
    const auto segments = split(s.tokens, length);
    double pairs = 0;
    for (const Segment& g : segments) pairs += static_cast<double>(g.q_len * (g.q_len + 1)) / 2;
    const double flop = 4.0 * pairs * static_cast<double>(s.width);  // of the visible pairs only
    const std::string label = "attention " + std::string(name_of(type)) + " T=" + std::to_string(length);
    const auto& kernels = cpu_kernels().attention;
    report(label + " forward", flop, "GFLOP/s",
           [&] { kernels.attention_forward(y, lse, q, k, v, heads, segments); });
    report(label + " backward", 2.5 * flop, "GFLOP/s",
           [&] { kernels.attention_backward(d_q, d_k, d_v, d_y, q, k, v, y, lse, heads, segments); });
  }
  const Segment last{0, 1, 0, s.tokens};
  const std::vector<Segment> decode{last};
  report("attention " + std::string(name_of(type)) + " decode, all keys",
         2.0 * static_cast<double>(s.tokens * s.width * size_of(type)), "GB/s", [&] {
           cpu_kernels().attention.attention_invariant(y.view.slice_rows(0, 1), q.view.slice_rows(0, 1), k, v,
                                                       heads, decode);
         });
}

void bench_elementwise(const Sizes& s, DType type) {
  const Kernels& kernels = cpu_kernels();
  const std::string dtype(name_of(type));
  const std::int64_t n = s.tokens;
  const auto bytes = [](double per_element, std::int64_t elements) {
    return per_element * static_cast<double>(elements);
  };
  const double narrow = static_cast<double>(size_of(type));
  {
    const Tensor x = bench::random_tensor(DType::f32, n, s.width, 1),
                 w = bench::random_tensor(DType::f32, 1, s.width, 2);
    const Tensor y(type, n, s.width), inv(DType::f32, 1, n), d_x(DType::f32, n, s.width),
        d_w(DType::f32, 1, s.width);
    report("rms_norm forward " + dtype, bytes(4 + narrow, n * s.width), "GB/s",
           [&] { kernels.norm.rms_norm_forward(y, inv, x, w, 1e-5); });
    report("rms_norm backward " + dtype, bytes(12 + narrow, n * s.width), "GB/s",
           [&] { kernels.norm.rms_norm_backward(d_x, {}, d_w, y, x, w, inv); });
    const Tensor angles = bench::random_tensor(DType::f32, n, 32, 3);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int32_t>(i);
    report("rope " + dtype, bytes(2 * narrow, n * s.width), "GB/s",
           [&] { kernels.rope.rope(y, s.width / 32, angles, positions, false); });
  }
  const Tensor gate = bench::random_tensor(type, n, s.inner, 1),
               up = bench::random_tensor(type, n, s.inner, 2);
  const Tensor h(type, n, s.inner), d_gate(type, n, s.inner), d_up(type, n, s.inner);
  report("swiglu forward " + dtype, bytes(3 * narrow, n * s.inner), "GB/s",
         [&] { kernels.glu.swiglu_forward(h, gate, up); });
  report("swiglu backward " + dtype, bytes(5 * narrow, n * s.inner), "GB/s",
         [&] { kernels.glu.swiglu_backward(d_gate, d_up, h, gate, up); });
  // A token at every third position, as in text; f32 rows, as in training.
  const std::int64_t distinct = n / 3;
  const Tensor table = bench::random_tensor(DType::f32, distinct, s.inner, 3),
               grads(DType::f32, distinct, s.inner);
  std::vector<RowPointer> at;
  for (std::int64_t i = 0; i < n; ++i) at.push_back({table.view.row<float>(i * 7 % distinct)});
  std::vector<std::int32_t> offsets{0}, positions;
  for (std::int64_t r = 0; r < distinct; ++r) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (i * 7 % distinct == r) positions.push_back(static_cast<std::int32_t>(i));
    }
    offsets.push_back(static_cast<std::int32_t>(positions.size()));
  }
  const RowPointers rows{at.data(), n, s.inner};
  const RowGradients d_rows{distinct,        s.inner,    offsets.data(), positions.data(),
                            grads.view.data, DType::f32, s.inner};
  report("stem forward " + dtype, bytes(2 * narrow + 4, n * s.inner), "GB/s",
         [&] { kernels.glu.stem_forward(h, gate, rows); });
  report("stem backward " + dtype, bytes(3 * narrow + 8, n * s.inner), "GB/s",
         [&] { kernels.glu.stem_backward(d_gate, d_rows, h, gate, rows); });
  {
    const Tensor logits = bench::random_tensor(DType::f32, 512, s.vocabulary, 4), loss(DType::f32, 1, 512);
    const Tensor d(type, 512, s.vocabulary);
    const std::vector<std::int32_t> targets(512, 1);
    const std::vector<float> weights(512, 0.1f);
    report("cross_entropy 512 rows " + dtype, bytes(4 + narrow, logits.view.size()), "GB/s",
           [&] { kernels.loss.softmax_cross_entropy(d, loss, logits, targets, weights); });
  }
  const std::int64_t count = 2000000;
  const Tensor w(DType::f32, 1, count), m(DType::f32, 1, count), v(DType::f32, 1, count),
      g(DType::f32, 1, count);
  const Tensor copy(type, 1, count);
  const AdamW adam;
  report("adamw 2M with copy " + dtype, bytes(28 + narrow, count), "GB/s",
         [&] { kernels.optimizer.adamw(w, m, v, g, copy, adam); });
  report("squared_norm 2M", bytes(4, count), "GB/s", [&] { (void)kernels.optimizer.squared_norm(g); });
  report("convert 2M f32 to " + dtype, bytes(4 + narrow, count), "GB/s",
         [&] { kernels.optimizer.convert(copy, g); });
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  const auto argument = [&](int i, std::int64_t other) { return argc > i ? std::atoll(argv[i]) : other; };
  const stem::Sizes sizes{argument(1, 128), argument(2, 512), argument(3, 2048), argument(4, 6000),
                          argument(5, 512)};
  std::printf("%s, %d threads\n", stem::cpu_description().c_str(), stem::cpu_threads());
  for (const stem::DType type : {stem::DType::bf16, stem::DType::f32}) {
    stem::bench_gemm(sizes, type);
    stem::bench_attention(sizes, type);
    stem::bench_elementwise(sizes, type);
  }
}
