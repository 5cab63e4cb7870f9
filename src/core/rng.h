// Counter-based random numbers: the value at (seed, stream, counter) never depends on what was drawn before,
// so data order, initialisation and sampling resume bit for bit and parallelise freely.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>

namespace stem {

/// Philox4x32-10. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_high, std::uint64_t counter_low);

/// One stream of random numbers. `at` is a pure function; `next` walks a counter.
class Rng {
 public:
  Rng(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  /// 64 random bits at a counter.
  std::uint64_t at(std::uint64_t counter) const {
    const auto words = philox(seed_, stream_, counter);
    return (static_cast<std::uint64_t>(words[0]) << 32) | words[1];
  }
  std::uint64_t next() { return at(counter_++); }

  /// Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  /// Uniform in [0, n), n > 0 (multiply-shift; bias below n / 2^64).
  std::uint64_t below(std::uint64_t n) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * n) >> 64);
  }
  /// Standard normal at a counter (Box-Muller on the 128 bits of one block).
  double normal_at(std::uint64_t counter) const {
    const auto w = philox(seed_, stream_, counter);
    const double u = (static_cast<double>(w[0]) + 0.5) * 0x1.0p-32;
    const double v = static_cast<double>(w[1]) * 0x1.0p-32;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
  }
  double normal() { return normal_at(counter_++); }

 private:
  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t counter_ = 0;
};

/// Fisher-Yates with `rng`; the same order for the same seed on every machine.
template <class Container>
void shuffle(Container& items, Rng& rng) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[rng.below(i)]);
}

}  // namespace stem
