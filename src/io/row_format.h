// The formats of quantised tensors in safetensors files: U8 rows, named in the metadata under the tensor's
// name. Source: docs/formats/weights.md.
#pragma once

#include <optional>
#include <string>

#include "core/weight_format.h"
#include "io/safetensors.h"

namespace stem {

/// The format that the metadata names for a tensor; none: plain values. kFormat for a name that is no format
/// of small integers.
std::optional<WeightFormat> row_format(const Safetensors& file, const std::string& tensor);

}  // namespace stem
