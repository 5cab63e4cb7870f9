#include "convert/calibration_text.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"

namespace stem {
namespace {

// `limit` tokens' worth of the sequences numbered 0 … count − 1, spread evenly.
std::vector<std::int64_t> spread(const std::vector<std::int64_t>& numbers, std::int64_t most) {
  const auto count = static_cast<std::int64_t>(numbers.size());
  if (count <= most) return numbers;
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < most; ++i)
    chosen.push_back(numbers[static_cast<std::size_t>(i * count / most)]);
  return chosen;
}

}  // namespace

CalibrationText::CalibrationText(std::vector<std::int32_t> tokens, std::int64_t sequence,
                                 std::int64_t per_batch)
    : tokens_(std::move(tokens)), sequence_(sequence), per_batch_(per_batch) {
  require(sequence > 0 && per_batch > 0 && size() % sequence == 0, "CalibrationText: whole sequences");
  for (std::int64_t n = 0; n < size(); ++n) {
    const std::int64_t at = n % sequence;
    const bool scored = at > 0 && at + 1 < sequence;
    targets_.push_back(scored ? tokens_[static_cast<std::size_t>(n) + 1] : -1);
    if (n < batch_size()) positions_.push_back(static_cast<std::int32_t>(at));
  }
  for (std::int64_t s = 0; s < per_batch; ++s)
    segments_.push_back({s * sequence, sequence, s * sequence, sequence});
  const auto largest = std::max_element(tokens_.begin(), tokens_.end());
  places_.assign(largest == tokens_.end() ? 0 : static_cast<std::size_t>(*largest) + 1, 0);
  for (const std::int32_t token : tokens_) ++places_[static_cast<std::size_t>(token)];
  for (std::size_t token = 0; token < places_.size(); ++token) {
    const std::int32_t count = places_[token];
    places_[token] = count > 0 ? static_cast<std::int32_t>(distinct_.size()) : -1;
    if (count == 0) continue;
    distinct_.push_back(static_cast<std::int32_t>(token));
    counts_.push_back(count);
  }
}

std::int64_t CalibrationText::place(std::int32_t token) const {
  const auto at = static_cast<std::size_t>(token);
  return at < places_.size() ? places_[at] : -1;
}

TokenBatch CalibrationText::batch(std::int64_t batch) const {
  const std::int64_t from = first(batch), count = std::min(batch_size(), size() - from);
  return {tokens().subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(count)),
          std::span(positions_).first(static_cast<std::size_t>(count)),
          std::span(segments_).first(static_cast<std::size_t>(count / sequence_)),
          {}};
}

DividedText divide_text(std::span<const std::int32_t> tokens, std::int32_t start, std::int64_t sequence,
                        std::int64_t share, std::int64_t calibration_limit, std::int64_t held_out_limit,
                        std::int64_t further_limit) {
  const std::int64_t own = start < 0 ? sequence : sequence - 1;
  require(own > 0 && share > 1, "divide_text: sequences of two tokens, a share above one");
  std::vector<std::int64_t> numbers[2];  // of the calibration, of the held-out text
  for (std::int64_t i = 0; (i + 1) * own <= static_cast<std::int64_t>(tokens.size()); ++i)
    numbers[i % share == share - 1].push_back(i);
  DividedText divided;
  const auto take = [&](const std::vector<std::int64_t>& from, std::int64_t limit,
                        std::vector<std::int32_t>& to) {
    std::vector<std::int64_t> chosen = spread(from, limit / sequence);
    for (const std::int64_t i : chosen) {
      if (start >= 0) to.push_back(start);
      const auto piece = tokens.subspan(static_cast<std::size_t>(i * own), static_cast<std::size_t>(own));
      to.insert(to.end(), piece.begin(), piece.end());
    }
    return chosen;
  };
  const std::vector<std::int64_t> calibrated = take(numbers[0], calibration_limit, divided.calibration);
  take(numbers[1], held_out_limit, divided.held_out);
  std::vector<std::int64_t> left;
  std::set_difference(numbers[0].begin(), numbers[0].end(), calibrated.begin(), calibrated.end(),
                      std::back_inserter(left));
  take(left, further_limit, divided.further);
  return divided;
}

}  // namespace stem
