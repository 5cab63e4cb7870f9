// A dense model becomes a STEM model, layer after layer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "convert/residual_stream.h"
#include "convert/row_calibration.h"
#include "convert/shared_model.h"

namespace stem {

struct ConversionOptions {
  double prior = 4.0;   ///< ordinary occurrences that the ridge map of the embedding counts as, in every row
  double ridge = 1e-2;  ///< of the refit of W_d, towards the dense one, in means of the equations' diagonal
  double catch_up = 1.0;  ///< share of the residual stream's difference from the dense model's that the refit
                          ///< of W_d is to make up for
};

/// What one layer became.
struct ConvertedLayer {
  std::int64_t layer = 0;
  Tensor down;              ///< [D, F] f32: W_d refitted
  double stream_error = 0;  ///< mean over positions of |x' − x|² / |x|², x the dense model's residual stream
                            ///< behind the layer, x' the converted one's; start tokens left out
};

/// Runs a text through the dense model and through what it has become so far. At each layer to convert, the
/// rows are solved so that the gated product of the *converted* model's gate comes closest to the dense
/// model's, U[t] = Σ s·z / Σ s²; then W_d is refitted by ridge least squares to what the dense FFN adds,
/// positions weighted so that relative errors count: a start token's, whose state can be a thousand times as
/// large as any other, no more than theirs. In memory: two streams of 4·N·D bytes, one layer's sums and rows
/// of the text's tokens.
class Conversion {
 public:
  /// `dense` and `text` must outlive it.
  Conversion(const Context& context, const Model& dense, const CalibrationText& text,
             std::vector<std::int64_t> layers, const ConversionOptions& options);

  /// Sees records [first, first + rows) of the layer's table, values f32 that are bf16's.
  using RowSink = std::function<void(std::int64_t first, In rows)>;
  /// The next layer, 0, 1, … in turn; a layer that stays dense is only run.
  void run_dense(std::int64_t layer);
  ConvertedLayer convert(std::int64_t layer, const RowSink& sink);
  /// A layer converted earlier, in a run that was stopped: rows [R, F] f32 of the text's distinct tokens.
  void resume(std::int64_t layer, In rows, In down);

  /// Shares the weights of `dense` and has the refitted W_d of the layers that are done.
  const Model& model() const { return student_; }
  std::int64_t next_layer() const { return next_; }

 private:
  void run_teacher(std::int64_t layer, RowCalibration* rows);
  void refit(std::int64_t layer, In rows);
  void run_student(std::int64_t layer, In rows);
  double stream_error() const;

  Context ctx_;
  const Model& dense_;
  const CalibrationText& text_;
  ConversionOptions options_;
  Model student_;
  TokenFeatures features_;
  ResidualStream teacher_stream_;
  std::unique_ptr<ResidualStream> student_stream_;  // from the first converted layer on
  Tensor target_;                                   // [N, D] narrow: what W_d is fitted to
  std::vector<OwnDown> downs_;
  std::int64_t next_ = 0;
};

}  // namespace stem
