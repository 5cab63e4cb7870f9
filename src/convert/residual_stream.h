// The residual stream of a whole text between two layers.
#pragma once

#include "convert/calibration_text.h"
#include "model/forward.h"

namespace stem {

/// One layer runs over all of a text before the next, so that a calibration holds the sums of one layer at a
/// time: 4·N·D bytes for the stream, activations for one batch.
class ResidualStream {
 public:
  /// Behind the token embedding. `text` must outlive the stream.
  ResidualStream(const Context& context, const Model& model, const CalibrationText& text);
  /// Where `other` stands now.
  ResidualStream(const ResidualStream& other);
  ResidualStream(ResidualStream&&) = default;

  /// One batch's memory for the activations of one layer, in the context's workspace while it lives.
  class Pass {
   public:
    Pass(const Context& context, const Model& model, const ResidualStream& stream);
    /// For batch b: x_in and x_mid both are the batch's part of the stream, so that what the halves of a
    /// layer leave there is the stream's new state.
    LayerSaved at(std::int64_t b) const;

   private:
    const ResidualStream& stream_;
    Workspace::Scope scope_;
    LayerSaved all_;
  };

  /// Runs a layer, rows from the model's table: from the stream before it to the stream behind it.
  void advance(const Context& context, const Model& model, std::int64_t layer);
  /// loss [N] f32, 0 where there is no target: of the stream behind the last layer.
  std::vector<float> losses(const Context& context, const Model& model);
  /// KL(base ‖ model) [N] f32 of the predictions, 0 where there is no target: `base_stream`, of the same
  /// text, stands behind the last layer of `base`, this one behind that of `model`.
  std::vector<float> divergence(const Context& context, const Model& model, const Model& base,
                                const ResidualStream& base_stream);

  const CalibrationText& text() const { return *text_; }
  /// What the output head reads of a batch [n, D] narrow, in the context's workspace.
  Out normed(const Context& context, const Model& model, std::int64_t batch) const;
  std::span<const std::int32_t> targets(std::int64_t batch) const;
  Out rows(std::int64_t batch) const;  ///< [n, D] of a batch
  Out all() const { return x_.view; }  ///< [N, D] wide

 private:
  const CalibrationText* text_;
  Tensor x_;
};

}  // namespace stem
