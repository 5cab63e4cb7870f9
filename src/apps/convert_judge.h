// A converted model beside its parent, on text that neither was made of.
#pragma once

#include "apps/convert_texts.h"
#include "model/model.h"

namespace stem {

/// Members for a conversion's result, over `texts.held_out`: `all`, `by_text` and `by_frequency` (losses of
/// both, perplexities, KL(dense ‖ made)), `unseen_share`, and `cost` of both models. Both run through the
/// context's backend as the trainer runs them. Docs: docs/formats/conversion.md.
Json judge_conversion(const Context& context, const Model& dense, const Model& made,
                      const ConversionTexts& texts);

}  // namespace stem
