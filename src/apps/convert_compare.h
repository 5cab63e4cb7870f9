// A dense model and what became of it, side by side: speed, memory, suites, facts.
#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "apps/runtime.h"
#include "io/json.h"

namespace stem {

struct CompareOptions {
  std::vector<std::pair<std::string, std::string>> suites;  ///< name, file
  std::string facts;                                        ///< fact suite; empty: none
  bool quiet = false;
};

/// Throws what is wrong with the files, before hours of work.
void check_compare_files(const CompareOptions& options);

/// Members for a conversion's result: `speed` (dense, converted), `suites` (name, metric, items, dense,
/// converted) and `facts` (id, text, cases, dense, converted, both). Docs: docs/formats/conversion.md. Loads
/// one model after the other, for inference.
Json compare_models(Runtime& runtime, const std::filesystem::path& dense,
                    const std::filesystem::path& converted, const CompareOptions& options);

}  // namespace stem
