// stem.json, the manifest of a model directory: who the model is and what every file's bytes are.
// Source: docs/formats/manifest.md; stem-spec §6.
#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/digest.h"

namespace stem {

inline constexpr const char* kManifestName = "stem.json";
inline constexpr const char* kManifestFormat = "stem-model/1";
/// The signature over the directory; made after the manifest, so never listed in it.
inline constexpr const char* kSignatureName = "stem.sig";

struct ManifestEntry {
  Digest sha256{};
  std::uint64_t bytes = 0;
};

struct Manifest {
  Uuid uuid{};                                 ///< the model; all zero: not given yet
  std::int64_t model_version = 1;              ///< >= 1, grows with every release of the same uuid
  std::string created;                         ///< RFC 3339, UTC, whole seconds: 2026-01-31T12:00:00Z
  std::optional<std::string> expires;          ///< the same form
  std::optional<Digest> tokenizer;             ///< SHA-256 of tokenizer.json, which patches name
  std::optional<std::string> token_stats;      ///< file with token frequencies and update counts
  std::optional<Digest> row_root;              ///< root of the row tree, once signed
  std::map<std::string, ManifestEntry> files;  ///< every other file, by path relative to the directory
};

/// Computes the digest of every file below `directory` and writes the manifest last (atomically). `draft`
/// gives what a caller wants to keep; an absent uuid and created are filled in, files and tokenizer always.
/// Returns what was written. kMismatch: a link or special file among the files, a bad name, token_stats not
/// there.
Manifest write_manifest(const std::filesystem::path& directory, Manifest draft = {});

/// Parses the manifest, without looking at the files. kFormat on anything unexpected, unknown keys included;
/// names that leave the directory are refused here.
Manifest read_manifest(const std::filesystem::path& directory);

/// One way in which a directory is not what its manifest says.
struct Difference {
  enum class Kind { missing, extra, outside, size, digest, tokenizer, expired };
  Kind kind{};
  std::string file;      ///< as listed; empty for `expired`
  std::string expected;  ///< digest, bytes or time
  std::string found;
  std::string text;  ///< the whole sentence, with the path
};

/// All differences, in order of file name; empty if there is none. Reads every listed file once.
std::vector<Difference> manifest_differences(const std::filesystem::path& directory, const Manifest& manifest,
                                             std::time_t now = std::time(nullptr));

/// Reads the manifest and checks every file: size, digest, nothing missing, nothing extra, nothing that leads
/// outside, not expired. kIntegrity with the first difference, for example
///   m/stem_table.safetensors: SHA-256 expected 12ab…, found 98fe… (manifest stem.json): the file was changed
///   after the model was saved
Manifest verify_manifest(const std::filesystem::path& directory, std::time_t now = std::time(nullptr));

}  // namespace stem
