// A STEM model made of a dense one's own weights.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model.h"

namespace stem {

/// The model whose FFNs in `layers` (ascending) are STEM layers, with an absent table: rows come by
/// RowPlan::redirect. It shares the memory of every weight with `dense`, which must outlive it; the
/// up-projections of `layers` have no place in it.
Model share_as_stem(const Model& dense, std::vector<std::int64_t> layers);

/// Another value of one layer's `which` (W_d, W_o) in such a model, f32.
class OwnWeight {
 public:
  OwnWeight(const Context& context, Model& model, std::int64_t layer, Out LayerTensors::*which, In values);
  In values() const { return wide_; }

 private:
  Tensor wide_, narrow_;
};

}  // namespace stem
