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

/// Which weights are refitted besides W_d of the converted layers.
enum class RefitScope {
  converted,  ///< none
  all,        ///< W_o and W_d of every layer behind the first converted one
};

std::string_view name_of(RefitScope scope);

struct ConversionOptions {
  double prior = 4.0;   ///< ordinary occurrences that the ridge map of the embedding counts as, in every row
  double ridge = 1e-2;  ///< of the refits, towards the dense weight, in means of the equations' diagonal
  double catch_up = 1.0;  ///< share of the residual stream's difference from the dense model's that the
                          ///< refits are to make up for
  RefitScope refit = RefitScope::converted;
};

/// What one layer became.
struct ConvertedLayer {
  std::int64_t layer = 0;
  Tensor down;              ///< [D, F] f32: W_d refitted
  Tensor o;                 ///< [D, H·A] f32: W_o refitted; empty where it stays
  double stream_error = 0;  ///< mean over positions of |x' − x|² / |x|², x the dense model's residual stream
                            ///< behind the layer, x' the converted one's; start tokens left out
};

/// Runs a text through the dense model and through what it has become so far. At each layer to convert, the
/// rows are solved so that the gated product of the *converted* model's gate comes closest to the dense
/// model's, U[t] = Σ s·z / Σ s²; then W_d is refitted (WeightRefit) to what the dense FFN adds and to
/// what earlier layers lost. With RefitScope::all the layers that stay dense make up for that loss as well,
/// and so does attention. In memory: two streams of 4·N·D bytes (three with RefitScope::all), one layer's
/// sums and rows of the text's tokens.
class Conversion {
 public:
  /// `dense` and `text` must outlive it.
  Conversion(const Context& context, const Model& dense, const CalibrationText& text,
             std::vector<std::int64_t> layers, const ConversionOptions& options);

  /// Sees records [first, first + rows) of the layer's table, values f32 that are bf16's.
  using RowSink = std::function<void(std::int64_t first, In rows)>;
  /// Whether `layer`, the next, becomes another one: converted or refitted.
  bool changes(std::int64_t layer) const;
  /// The next layer, 0, 1, … in turn. One that does not change is only run; of one that stays dense `sink`
  /// sees nothing.
  void run(std::int64_t layer);
  ConvertedLayer convert(std::int64_t layer, const RowSink& sink);
  /// A layer changed earlier, in a run that was stopped: rows [R, F] f32 of the text's distinct tokens, empty
  /// where it stays dense; its weights as `convert` gave them, `o` empty where it was.
  void resume(std::int64_t layer, In rows, In down, In o);

  /// Shares the weights of `dense` and has the refitted ones of the layers that are done.
  const Model& model() const { return student_; }
  std::int64_t next_layer() const { return next_; }

 private:
  void refit_attention(std::int64_t layer);
  void run_teacher(std::int64_t layer, bool set_targets, RowCalibration* rows);
  void refit_down(std::int64_t layer, In rows);
  void run_student(std::int64_t layer, In rows);
  RowPlan plan_of(const TokenBatch& batch, std::int64_t layer, In rows) const;
  Tensor solve_rows(std::int64_t layer, RowCalibration& calibration, const RowSink& sink);
  double stream_error() const;

  Context ctx_;
  const Model& dense_;
  const CalibrationText& text_;
  ConversionOptions options_;
  Model student_;
  TokenFeatures features_;
  ResidualStream teacher_stream_;
  std::unique_ptr<ResidualStream> student_stream_;  // from the first converted layer on
  Tensor target_;                                   // [N, D] narrow: what a weight is fitted to
  std::vector<OwnWeight> refitted_;
  std::int64_t next_ = 0;
};

}  // namespace stem
