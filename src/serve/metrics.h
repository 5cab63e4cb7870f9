// Counters and gauges for Prometheus.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "generate/engine_stats.h"

namespace stem {

/// Responses, by the first digit of their status.
class HttpCounters {
 public:
  void add(int status);
  std::uint64_t of_class(int hundreds) const { return counts_[static_cast<std::size_t>(hundreds)]; }

 private:
  std::array<std::atomic<std::uint64_t>, 6> counts_{};
};

struct MetricsSource {
  std::string model;
  std::function<EngineStats()> engine;
  std::function<std::int64_t()> connections;
};

/// The text of /metrics (Prometheus' exposition format 0.0.4). Names begin with `stem:`; those that gateways
/// and autoscalers of vLLM replicas read come under vLLM's names, too.
std::string metrics_text(const MetricsSource& source, const HttpCounters& http);

}  // namespace stem
