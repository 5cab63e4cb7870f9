#include "train/spike.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/names.h"

namespace stem {
namespace {

constexpr std::array<std::string_view, 4> kNames{"continue", "stop", "skip", "rollback"};
constexpr double kSigmas = 6.0, kNormalShare = 1.4826, kLeastSigma = 0.01;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return 0.5 * (*middle + *std::max_element(values.begin(), middle));
}

}  // namespace

std::string_view name_of(OnSpike choice) {
  return kNames[static_cast<std::size_t>(choice)];
}

OnSpike on_spike_from(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    fail(ErrorCode::kUsage, "train.on_spike: expected continue, stop, skip or rollback, found \"{}\"", name);
  }
  return static_cast<OnSpike>(found - kNames.begin());
}

std::string Spike::text() const {
  if (!is_finite) return std::isfinite(loss) ? "a gradient is not a number" : "the loss is not a number";
  return fmt::format("the loss {:.4f} lies above {:.4f}, six robust standard deviations over the median",
                     loss, limit);
}

double SpikeWindow::limit() const {
  if (losses_.size() < kLeast) return std::numeric_limits<double>::infinity();
  const double middle = median(losses_);
  std::vector<double> distances;
  for (const double loss : losses_) distances.push_back(std::abs(loss - middle));
  return middle + kSigmas * std::max(kNormalShare * median(distances), kLeastSigma * std::abs(middle));
}

void SpikeWindow::accept(double loss) {
  if (losses_.size() == kWindow) losses_.erase(losses_.begin());
  losses_.push_back(loss);
}

void SpikeWindow::restore(std::vector<double> losses) {
  losses_ = std::move(losses);
  if (losses_.size() > kWindow) losses_.erase(losses_.begin(), losses_.end() - kWindow);
}

}  // namespace stem
