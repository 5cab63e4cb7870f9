// Rows of a conversion whose layers are done, updated by text that it has not seen.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "convert/calibration_text.h"
#include "convert/row_sums.h"
#include "model/model.h"

namespace stem {

/// Runs the dense model and the converted one side by side over any amount of text, a piece at a time, up to
/// the last converted layer, and takes the sums Σ s·z and Σ s² of every converted layer as Conversion does
/// for one. A row then counts as the occurrences that it was made from, and the new ones are added to them.
/// Costs two passes through these layers, where a conversion refits weights as well and goes to the last
/// layer. In memory: 8·S·R·F bytes, R the distinct tokens of all pieces.
class RowUpdate {
 public:
  /// The rows of `tokens` (ascending) in STEM layer s, as they are: `to` [n, F] f32.
  using RowSource = std::function<void(std::int64_t s, std::span<const std::int32_t> tokens, Out to)>;

  /// `student`: `dense` with converted layers and the weights refitted for them; its table is not read. Both
  /// must outlive this. `tokens`: the distinct ids of all pieces, ascending.
  RowUpdate(const Context& context, const Model& dense, const Model& student,
            const std::vector<std::int32_t>& tokens, RowSource rows);

  void add(const CalibrationText& piece);

  /// A row of STEM layer s: u [F] comes as it was, counting as `occurrences` ordinary ones, and goes as it
  /// becomes. False, and u untouched, where the token is not among the text's.
  bool solve(std::int64_t s, std::int32_t token, double occurrences, std::span<float> u) const;

 private:
  Context ctx_;
  const Model &dense_, &student_;
  RowSource rows_;
  std::vector<RowSums> sums_;                        // [S]
  mutable std::vector<std::vector<float>> typical_;  // [S][F] one occurrence's weight, once text is there
};

}  // namespace stem
