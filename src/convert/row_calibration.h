// All rows of one converted layer: a token's own occurrences where there are enough of them, the ridge map of
// its embedding where there are few or none.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "convert/calibration_text.h"
#include "convert/row_sums.h"
#include "model/model.h"

namespace stem {

/// Ê = [E[t] / rms(E[t]), 1], [D + 1], of each of a text's tokens, and Σ count·Ê Êᵀ over them: what the ridge
/// maps of all layers share.
class TokenFeatures {
 public:
  TokenFeatures(const Context& context, const Model& model, const CalibrationText& text);

  /// features [n, D + 1] f32 of any tokens.
  void of(std::span<const std::int32_t> tokens, Out features) const;
  In of_text() const { return of_text_; }      ///< [R, D + 1]
  In equations() const { return equations_; }  ///< [D + 1, D + 1]
  std::int64_t width() const { return embedding_.cols + 1; }

 private:
  In embedding_;  // the model's
  Tensor of_text_, equations_;
};

/// The mean of what a layer's FFN reads, x̂, over a token's occurrences. Memory: 4·R·D bytes.
class NormedMeans {
 public:
  /// Both must outlive it.
  NormedMeans(const CalibrationText& text, const TokenFeatures& features, std::int64_t width);

  /// Adds positions of the text: normed [N, D] narrow.
  void add(const Context& context, std::span<const std::int32_t> tokens, In normed);
  /// Fits the ridge map from a token's features to its mean.
  void fit(const Context& context);
  /// means [n, D] f32 of any tokens. The ridge map counts as `prior` occurrences, and alone for tokens that
  /// never occur.
  void means(const Context& context, std::span<const std::int32_t> tokens, double prior, Out means) const;
  In map() const { return map_; }  ///< the ridge map [D + 1, D]

 private:
  const CalibrationText& text_;
  const TokenFeatures& features_;
  Tensor sums_;  // [R, D]
  Tensor map_;
};

/// What one layer's rows are solved from, and the rows of any tokens. Memory: 4·R·(2F + D) bytes.
class RowCalibration {
 public:
  /// All three must outlive it.
  RowCalibration(const CalibrationText& text, const TokenFeatures& features, std::int64_t width,
                 std::int64_t ffn);

  /// Adds positions of the text: what the dense layer's FFN reads, normed [N, D] narrow, the gate before its
  /// SiLU as the layer runs and the gated product z as it should be, both [N, F] narrow.
  void add(const Context& context, std::span<const std::int32_t> tokens, In normed, In gate, In z);

  /// Fits the ridge map: the mean of `normed` over a token's occurrences from its features, then through
  /// w_up [F, D] f32. `prior` occurrences' worth of it go into every row but that of the token that begins
  /// sequences.
  void fit(const Context& context, In w_up, double prior = 4.0);
  /// u [n, F] f32: rows of these tokens, rounded to bf16, as they will be stored.
  void rows(const Context& context, std::span<const std::int32_t> tokens, Out u) const;

  const RowSums& sums() const { return sums_; }

 private:
  const CalibrationText& text_;
  const TokenFeatures& features_;
  RowSums sums_;
  NormedMeans normed_;
  Tensor map_;  // [F, D + 1]
  std::vector<float> prior_weight_, no_weight_;
};

}  // namespace stem
