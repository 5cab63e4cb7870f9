// Times the matrix products of one training step, our own and oneDNN's, as bench/gemm_vs_torch asks for them.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>

#include "bench/sample.h"
#include "io/json.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/families.h"

namespace stem {
namespace {

struct Product {
  const char* name;
  std::int64_t m, n, k;
  bool transpose_a, transpose_b, wide;  // wide: c is f32
  int calls;                            // in a step
};

// y = x·wᵀ, d_x = d_y·w and d_w = d_yᵀ·x of every linear layer; `stem` of the `layers` have no up-projection.
std::vector<Product> products_of(const std::string& config) {
  const bool small = config == "small";
  if (!small && config != "medium")
    fail(ErrorCode::kUsage, "--config: expected small or medium, found \"{}\"", config);
  const std::int64_t n = 2048, d = small ? 256 : 512, f = small ? 704 : 1408, qkv = small ? 768 : 1024,
                     v = small ? 8192 : 32000;
  const int layers = small ? 6 : 8, stem = small ? 2 : 3, dense = layers - stem;
  return {{"qkv y", n, qkv, d, false, true, false, layers},
          {"qkv dx", n, d, qkv, false, false, false, layers},
          {"qkv dw", qkv, d, n, true, false, true, layers},
          {"o y", n, d, d, false, true, true, layers},
          {"o dx", n, d, d, false, false, false, layers},
          {"o dw", d, d, n, true, false, true, layers},
          {"gate y", n, f, d, false, true, false, stem},
          {"gate dx", n, d, f, false, false, false, stem},
          {"gate dw", f, d, n, true, false, true, stem},
          {"gate_up y", n, 2 * f, d, false, true, false, dense},
          {"gate_up dx", n, d, 2 * f, false, false, false, dense},
          {"gate_up dw", 2 * f, d, n, true, false, true, dense},
          {"down y", n, d, f, false, true, true, layers},
          {"down dx", n, f, d, false, false, false, layers},
          {"down dw", d, f, n, true, false, true, layers},
          {"head y", 512, v, d, false, true, true, 4},
          {"head dx", 512, d, v, false, false, false, 4},
          {"head dw", v, d, 512, true, false, true, 4}};
}

/// A product with its operands; they keep their memory between turns.
struct Operands {
  Operands(const Product& p, DType type)
      : a(bench::random_tensor(type, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, 1)),
        b(bench::random_tensor(type, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, 2)),
        c(p.wide ? DType::f32 : type, p.m, p.n) {}
  Tensor a, b, c;
};

/// Prints the products, then answers every line "NAME-INDEX own|library" by the median seconds of a call.
void run(const std::string& config, const std::string& dtype, int threads, int repeats) {
  set_cpu_threads(threads);
  const auto own = cpu_kernels().gemm.gemm, library = cpu::library_gemm();
  const std::vector<Product> products = products_of(config);
  std::vector<Operands> operands;
  Json list = Json::array();
  for (const Product& p : products) {
    operands.emplace_back(p, dtype == "bf16" ? DType::bf16 : DType::f32);
    list.push_back({{"name", p.name},
                    {"m", p.m},
                    {"n", p.n},
                    {"k", p.k},
                    {"transpose_a", p.transpose_a},
                    {"transpose_b", p.transpose_b},
                    {"calls", p.calls}});
  }
  std::printf("%s\n", list.dump().c_str());
  std::fflush(stdout);
  std::size_t index = 0;
  std::string who;
  while (std::cin >> index >> who) {
    require(index < products.size() && (who == "own" || who == "library"), "expected INDEX own|library");
    const Product& p = products[index];
    const Operands& x = operands[index];
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) {
      const auto start = std::chrono::steady_clock::now();
      (who == "own" ? own : library)(x.c, x.a, p.transpose_a, x.b, p.transpose_b, In{});
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::printf("%.9f\n", bench::median(seconds));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  CLI::App app(
      "Times the matrix products of one training step for bench/gemm_vs_torch: answers lines of stdin");
  std::string config = "small", dtype = "bf16";
  int threads = 2, repeats = 3;
  app.add_option("--config", config, "small or medium");
  app.add_option("--dtype", dtype, "bf16 or f32");
  app.add_option("--threads", threads, "threads")->check(CLI::Range(1, 1024));
  app.add_option("--repeats", repeats, "calls of a product in a turn")->check(CLI::Range(1, 100000));
  CLI11_PARSE(app, argc, argv);
  try {
    stem::run(config, dtype, threads, repeats);
  } catch (const stem::Error& e) {
    std::fprintf(stderr, "gemm_bench: %s\n", e.what());
    return 1;
  }
}
