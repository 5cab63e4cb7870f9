#include "apps/memory_rate.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "core/workspace.h"

namespace stem {
namespace {

// Each thread looks for a one among its zeros.
double read_rate(int wanted) {
  constexpr std::size_t kBytes = std::size_t{512} << 20;
  Buffer zeros(kBytes);
  zeros.clear();
  const auto* const data = static_cast<const char*>(zeros.data());
  std::vector<double> rates;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    int found = 0;
#pragma omp parallel num_threads(wanted) reduction(+ : found)
    {
      const auto threads = static_cast<std::size_t>(omp_get_num_threads());
      const std::size_t part = kBytes / threads;
      found += std::memchr(data + part * static_cast<std::size_t>(omp_get_thread_num()), 1, part) != nullptr;
    }
    require(found == 0, "zeros");
    rates.push_back(static_cast<double>(kBytes) / seconds_since(start));
  }
  std::nth_element(rates.begin(), rates.begin() + 2, rates.end());
  return rates[2];
}

}  // namespace

double memory_read_rate() {
  return read_rate(omp_get_max_threads());
}
double memory_read_rate_of_one() {
  return read_rate(1);
}

}  // namespace stem
