// The layers of a conversion that are done, on disk, until a model is made of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "convert/conversion.h"
#include "io/safetensors.h"

namespace stem {

/// Rows and weights of each layer that is done, in files of their own, and last a small one that names their
/// digests (docs/formats/conversion.md). What another process wrote is checked against them once: kIntegrity
/// names the file, and what to remove.
class LayerFiles {
 public:
  static constexpr const char* kRowsTensor = "rows";

  LayerFiles(std::filesystem::path folder, const ModelConfig& dense);

  bool done(std::int64_t layer) const;
  /// For kRowsTensor [V, F] bf16, in the vocabulary's order; to be closed before `finish`. `updated`: for the
  /// rows that come in place of the layer's own when all layers are done, to be closed before
  /// `finish_update`.
  std::unique_ptr<SafetensorsWriter> write_rows(std::int64_t layer, bool updated = false) const;
  /// `layer` is done. `rows`: it has a file of rows. Rows that were updated before are no longer right.
  void finish(const ConvertedLayer& layer, bool rows);
  /// From here on `rows` gives the updated rows of `layers`.
  void finish_update(const std::vector<std::int64_t>& layers);
  bool updated() const;

  /// Tensors as their file maps them.
  struct Rows {
    Safetensors file;
    In rows;  ///< [V, F] bf16
  };
  struct Weights {
    Safetensors file;
    In down;  ///< [D, F] f32
    In o;     ///< [D, H·A] f32; null where W_o stays
  };
  Rows rows(std::int64_t layer);  ///< updated, if they are
  Rows rows_as_converted(std::int64_t layer);
  Weights weights(std::int64_t layer);
  double stream_error(std::int64_t layer) const;

  /// Removes all of them.
  void remove() const;

 private:
  std::filesystem::path file(std::int64_t layer, const char* extension) const;
  std::filesystem::path update_file() const;
  std::filesystem::path checked(std::int64_t layer, const char* extension);
  std::filesystem::path checked(const std::filesystem::path& part, const std::filesystem::path& list,
                                const std::string& key, const char* remedy);
  Rows opened(const std::filesystem::path& part) const;

  std::filesystem::path folder_;
  ModelConfig dense_;
  std::set<std::filesystem::path> checked_;
};

}  // namespace stem
