// model.safetensors: dense weights by name, as numbers or in the small formats of core/weight_format.h.
// Source: docs/formats/weights.md.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/weight_format.h"
#include "io/safetensors.h"
#include "model/weights.h"

namespace stem {

/// A matrix of a file. Copies need the file to stay open.
struct StoredTensor {
  const TensorInfo* info = nullptr;
  std::optional<WeightFormat> format;  ///< none: F32
  StoredMatrix stored;                 ///< where format
};

/// Opened for reading; nothing but the header is read before a tensor is asked for.
class WeightsFile {
 public:
  explicit WeightsFile(const std::filesystem::path& path) : file_(Safetensors::open(path)) {}

  const Safetensors& file() const { return file_; }
  /// The matrix `name` [rows, cols]: F32, BF16, or U8 [rows, stored_row_bytes] with its format named in the
  /// metadata. kNotFound, kFormat or kMismatch otherwise; `source` says where the shape comes from.
  StoredTensor matrix(const std::string& name, std::int64_t rows, std::int64_t cols,
                      const std::string& source = "config.json") const;
  /// Reads a tensor as f32 or f64; `vector` if it is stored with one dimension.
  void read(const std::string& name, bool vector, Out into) const;
  /// Whether every matrix of this model is stored as bf16 or smaller.
  bool narrow(const ModelConfig& config) const;

 private:
  Safetensors file_;
};

/// The format in which to store the matrix `name`; none: as `dtype` says.
using FormatChoice = std::function<std::optional<WeightFormat>(const std::string& name, TensorKind kind)>;

/// Writes model.safetensors: vectors and matrices without a choice as `dtype`, f32 or bf16. `embedding` is
/// null when tied. Matrices are quantised on all threads.
void write_weights_file(const std::filesystem::path& path, const ModelConfig& config,
                        const DenseTensors& weights, In embedding, DType dtype,
                        const FormatChoice& choose = {});

inline constexpr const char* kEmbeddingName = "model.embed_tokens.weight";

}  // namespace stem
