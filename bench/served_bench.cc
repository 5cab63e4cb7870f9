// Products of inference at the shapes of a model: how much of memory's rate one token's pass takes, and how
// many tokens a second a prompt's pass reaches. Weights alone; attention, norms and the rest are `stem
// bench`.
//
//   served_bench [layers width ffn qkv_width vocab]     default: SmolLM2-135M
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "core/clock.h"
#include "core/rng.h"
#include "core/workspace.h"
#include "kernels/cpu/cpu.h"
#include "kernels/kernels.h"

namespace {

using namespace stem;

struct Weights {
  std::vector<ServedMatrix> matrices;
  std::vector<Buffer> memory;
  double bytes = 0;
};

Weights make(WeightFormat format, const std::vector<std::pair<std::int64_t, std::int64_t>>& shapes) {
  const ServedKernels& kernels = cpu_kernels().served;
  Weights w;
  for (const auto& [rows, cols] : shapes) {
    std::vector<float> row(static_cast<std::size_t>(cols));
    const Rng rng(1, 1);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(0.05 * rng.normal_at(i));
    const auto stored_bytes = static_cast<std::size_t>(stored_row_bytes(format, cols));
    std::vector<std::byte> stored(static_cast<std::size_t>(rows) * stored_bytes);
    store_row(format, row, stored.data());
    for (std::int64_t r = 1; r < rows; ++r)
      std::memcpy(stored.data() + static_cast<std::size_t>(r) * stored_bytes, stored.data(), stored_bytes);
    w.memory.emplace_back(kernels.bytes(format, rows, cols));
    kernels.pack(w.memory.back().data(), {format, rows, cols, stored.data()});
    w.matrices.push_back({format, rows, cols, w.memory.back().data()});
    w.bytes += static_cast<double>(w.memory.back().size());
  }
  return w;
}

/// Processor time of all threads: what other programs take of the machine does not count.
double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// The first rows · cols values of a tensor.
Out dense(const Tensor& t, std::int64_t rows, std::int64_t cols) {
  return {t.view.data, DType::f32, rows, cols, cols};
}

double pass(const Weights& w, std::int64_t rows, const Tensor& x, const Tensor& y) {
  const double processor = processor_seconds();
  const auto start = std::chrono::steady_clock::now();
  for (const ServedMatrix& m : w.matrices)
    cpu_kernels().served.linear(dense(y, rows, m.rows), dense(x, rows, m.cols), m, false);
  // One row is bound by memory, which all share: there the clock counts.
  return rows == 1 ? seconds_since(start) : (processor_seconds() - processor) / cpu_threads();
}

double read_pass(const Buffer& zeros) {
  const auto start = std::chrono::steady_clock::now();
  int found = 0;
#pragma omp parallel for reduction(+ : found) schedule(static, 1)
  for (int part = 0; part < cpu_threads(); ++part) {
    const std::size_t share = zeros.size() / static_cast<std::size_t>(cpu_threads());
    found += std::memchr(static_cast<const char*>(zeros.data()) + share * static_cast<std::size_t>(part), 1,
                         share) != nullptr;
  }
  return found == 0 ? seconds_since(start) : 0;
}

// The best of several: on a shared machine others can only slow a pass down.
double best(const std::vector<double>& v) {
  return *std::min_element(v.begin(), v.end());
}

}  // namespace

int main(int argc, char** argv) {
  const auto arg = [&](int i, long value) { return argc > i ? std::atol(argv[i]) : value; };
  const long layers = arg(1, 30), width = arg(2, 576), ffn = arg(3, 1536), qkv = arg(4, 960),
             vocab = arg(5, 49152);
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
  for (long l = 0; l < layers; ++l) {
    shapes.insert(shapes.end(), {{qkv, width}, {width, width}, {2 * ffn, width}, {width, ffn}});
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> all = shapes;
  all.push_back({vocab, width});
  Buffer zeros(std::size_t{256} << 20);
  zeros.clear();
  const Tensor x(DType::f32, 512, std::max(width, ffn)), y(DType::f32, 512, std::max({2 * ffn, qkv, width}));
  const Tensor one(DType::f32, 16, vocab);
  for (std::int64_t i = 0; i < x.view.size(); ++i)
    static_cast<float*>(x.view.data)[i] =
        static_cast<float>(Rng(2, 2).normal_at(static_cast<std::uint64_t>(i)));
  for (const WeightFormat format :
       {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4_f16, WeightFormat::int4}) {
    const Weights token = make(format, all), prompt = make(format, shapes);
    std::vector<double> reads, ones, sixteens, prompts;
    for (int round = 0; round < 15; ++round) {
      reads.push_back(read_pass(zeros) / static_cast<double>(zeros.size()));
      ones.push_back(pass(token, 1, x, one));
      sixteens.push_back(pass(token, 16, x, one));
      if (round % 3 == 0) prompts.push_back(pass(prompt, 512, x, y));
    }
    const double rate = token.bytes / best(ones);
    fmt::print(
        "{:9} {:6.1f} MB  1 row {:6.2f} ms {:5.1f} GB/s {:3.0f} % of {:4.1f}  16 rows {:6.2f} ms  512 rows "
        "{:6.1f} ms {:6.0f} rows/s\n",
        name_of(format), 1e-6 * token.bytes, 1e3 * best(ones), 1e-9 * rate, 100 * rate * best(reads),
        1e-9 / best(reads), 1e3 * best(sixteens), 1e3 * best(prompts), 512 / best(prompts));
  }
}
