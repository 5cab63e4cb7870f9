// What an up-projection gives each token on average: the reference that swaps of added rows go by.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "convert/residual_stream.h"
#include "convert/row_calibration.h"

namespace stem {

/// Runs a text through the model and keeps, for each of its STEM layers, the mean of what the FFN reads over
/// a token's occurrences. Memory: the stream's 4·N·D bytes and 4·R·D bytes a layer.
class ReferenceCalibration {
 public:
  /// `model` is stem_additive. `progress` sees each layer that was run. All must outlive it.
  ReferenceCalibration(const Context& context, const Model& model, const CalibrationText& text,
                       const std::function<void(std::int64_t layer)>& progress = {});

  /// records [n, S·F] f32 of any tokens: ū = W_u·mean(x̂) + U. The guess from a token's embedding counts as
  /// `prior` occurrences in the mean.
  void records(const Context& context, std::span<const std::int32_t> tokens, double prior, Out records) const;

 private:
  const Model& model_;
  TokenFeatures features_;
  std::vector<std::unique_ptr<NormedMeans>> layers_;  // [S]
};

}  // namespace stem
