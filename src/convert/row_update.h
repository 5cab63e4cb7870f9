// Rows of a conversion whose layers are done, updated by text that it has not seen.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "convert/calibration_text.h"
#include "convert/row_sums.h"
#include "model/model.h"

namespace stem {

/// Runs the dense model and the converted one side by side over any amount of text, a piece at a time, up to
/// the last converted layer, and takes the sums Σ s·z and Σ s² of every converted layer as Conversion does
/// for one. Costs two passes through these layers, where a conversion refits weights as well and goes to the
/// last layer. In memory: `bytes`.
class RowUpdate {
 public:
  /// The rows of `tokens` (ascending) in STEM layer s, as they are: `to` [n, F] f32.
  using RowSource = std::function<void(std::int64_t s, std::span<const std::int32_t> tokens, Out to)>;

  /// `student`: `dense` with converted layers and the weights refitted for them; its table is not read. Both
  /// must outlive this. `tokens`: the distinct ids of all pieces, ascending.
  RowUpdate(const Context& context, const Model& dense, const Model& student,
            const std::vector<std::int32_t>& tokens, RowSource rows);

  /// 8·S·R·F bytes for R distinct tokens.
  static double bytes(std::int64_t stem_layers, std::int64_t distinct, std::int64_t ffn);

  /// All pieces begin their sequences with the same token.
  void add(const CalibrationText& piece);

  /// The rows of one STEM layer, when all pieces are there. The update must outlive it.
  class Layer {
   public:
    Layer(const RowUpdate& update, std::int64_t s);
    /// u [F] comes as the token's row was and goes as it becomes. Before, it was made from `seen`
    /// occurrences, each of which counts as the mean of the token's own here, and from a guess that counts as
    /// `prior` ordinary ones. False, and u untouched, where the text has no such token, and for the start
    /// token: its state is the same everywhere, its row exact.
    bool solve(std::int32_t token, std::int64_t seen, double prior, std::span<float> u);

   private:
    const RowUpdate& update_;
    const RowSums& sums_;
    std::vector<float> ordinary_, weight_;  // [F]
  };

 private:
  Context ctx_;
  const Model &dense_, &student_;
  RowSource rows_;
  std::vector<RowSums> sums_;         // [S]
  std::vector<std::int64_t> counts_;  // [R]
  std::int32_t start_ = -1;
};

}  // namespace stem
