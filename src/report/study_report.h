// The page of a study of variants.
#pragma once

#include <string>
#include <vector>

#include "io/json.h"

namespace stem {

/// A self-contained HTML page of a study's results.json (docs/formats/study.md): what was compared, final
/// held-out losses with intervals, differences from dense, what they say of the paper's claims, curves,
/// stability over learning rates, speed. What is missing or null is not shown. Throws kFormat naming the
/// field when one has the wrong type.
std::string study_report(const Json& results);

/// The study's outcome in sentences, one a line, made of the numbers alone.
std::vector<std::string> study_verdict(const Json& results);

}  // namespace stem
