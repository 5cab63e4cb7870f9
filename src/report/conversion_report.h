// The page of a conversion: what turning a dense model into a STEM model cost.
#pragma once

#include <string>

#include "io/json.h"

namespace stem {

/// A self-contained HTML page of what `stem convert --json` prints (docs/formats/conversion.md): perplexity
/// and divergence before and after, by text and by how often rows were made from a token, damage of each
/// layer, errors of the residual stream, parameters and FLOPs, what it was calibrated on. What is missing or
/// null is not shown. Throws kFormat naming the field when one has the wrong type.
std::string conversion_report(const Json& result);

}  // namespace stem
