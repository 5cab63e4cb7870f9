// A patch on disk: the directory NAME.stempatch with replaced rows and who they were made for.
// Source: docs/formats/patch.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "io/digest.h"
#include "io/json.h"

namespace stem {

/// One replaced (mode set) or added (mode add) row.
struct PatchRow {
  std::int32_t token = 0;             ///< >= 0
  std::int32_t layer = 0;             ///< the model's layer, >= 0
  std::vector<float> values;          ///< [F], finite
  std::vector<std::int32_t> trigger;  ///< ids that must stand right before the token; empty: always
  Digest base_leaf{};                 ///< `row_leaf` of the row that it replaces
};

enum class PatchMode { set, add };

struct PatchFile {
  std::string id;                       ///< 64 hex digits; write_patch computes it
  Uuid base_uuid{};                     ///< the model it was made for
  std::optional<Digest> base_row_root;  ///< that model's row root, where it has one
  std::optional<Digest> tokenizer;      ///< SHA-256 of that model's tokenizer.json, where it has one
  DType dtype = DType::f32;             ///< of the base table, the type that base_leaf was taken over
  PatchMode mode = PatchMode::set;
  std::string method;                ///< "swap", "lsq", …
  Json request = Json::object();     ///< subject, its spellings, prompt, target
  Json parameters = Json::object();  ///< of the method
  Json scores = Json::object();
  std::int64_t sequence = 1;  ///< >= 1; grows with every patch that a key signs
  std::string created;        ///< RFC 3339 UTC; write_patch fills it in if empty
  std::optional<std::string> expires;
  std::int64_t width = 0;      ///< F
  std::vector<PatchRow> rows;  ///< at least one; distinct (token, layer, trigger)
};

/// Throws kUsage where write_patch would not put a patch: for a name that does not end in .stempatch, and a
/// place that holds something else.
void require_patch_place(const std::filesystem::path& path);

/// Writes the directory `path` (its name ends in .stempatch) whole or not at all, replacing an older patch
/// there. Sets id, width and created in `patch`. kMismatch on rows that read_patch would refuse.
void write_patch(const std::filesystem::path& path, PatchFile& patch);

/// Reads and checks everything that can be checked without the model: id, counts, ranges, finite values.
/// kFormat, or kIntegrity where the id does not match the bytes.
PatchFile read_patch(const std::filesystem::path& path);

/// What a patch must fit.
struct PatchBase {
  Uuid uuid{};
  std::optional<Digest> tokenizer;
  DType dtype = DType::f32;
  std::int64_t vocab = 0;  ///< V
  std::int64_t width = 0;  ///< F
  std::vector<std::int32_t> stem_layers;
  /// Digest of the base's row (layer, token); may be empty: rows are then not compared.
  std::function<Digest(std::int32_t layer, std::int32_t token)> leaf;
};

/// kMismatch unless the patch was made for this base; kIntegrity if a row that it replaces has changed.
/// `name` is the path for messages. With `requantised` (a quantised copy of the same base) a patch of mode
/// set is taken without comparing dtype and leaves.
void check_patch_base(const PatchFile& patch, const std::string& name, const PatchBase& base,
                      bool requantised = false);

}  // namespace stem
