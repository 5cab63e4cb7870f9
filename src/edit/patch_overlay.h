// Patches and the model they meet: a plan becomes a file, a file becomes rows in force.
#pragma once

#include <filesystem>
#include <optional>

#include "edit/patch_file.h"
#include "edit/surgery.h"
#include "model/model.h"

namespace stem {

/// Who the model is that a patch is made for or applied to.
struct PatchTarget {
  const Model* model = nullptr;
  Uuid uuid{};
  std::optional<Digest> tokenizer;
  std::optional<Digest> row_root;
};

/// The patch file of a swap; `request` and `parameters` say how it was made. Leaves of the replaced rows are
/// taken from the model's table.
PatchFile make_patch(const PatchTarget& target, const SwapPlan& plan, Json request, Json parameters);

/// Reads a patch, checks it against the model (kMismatch for another base, kIntegrity for a changed row) and
/// puts its rows on top of `overlay`. Returns what it read.
PatchFile apply_patch(const PatchTarget& target, const std::filesystem::path& path, Overlay& overlay);

}  // namespace stem
