// A model directory's own files, in the Hugging Face layout (stem-spec §6): config.json, model.safetensors,
// stem_table.safetensors. Tokenizer and manifest belong to other rooms.
#pragma once

#include <filesystem>
#include <optional>

#include "model/model.h"
#include "model/weights_file.h"

namespace stem {

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kTableFile = "stem_table.safetensors";

/// How a model is stored.
struct WriteOptions {
  DType dtype = DType::f32;  ///< of every value, f32 or bf16, but for:
  FormatChoice choose = {};  ///< formats of matrices
  std::optional<DType> table_dtype = {};
  std::optional<WeightFormat> table_rows = {};  ///< the table's, in place of a dtype
};

/// Writes the three files into `dir` (which exists). The table's data starts on a 4,096-byte boundary. An
/// absent table writes no file.
void write_model_files(const std::filesystem::path& dir, const Model& model,
                       const WriteOptions& options = {});

/// How to bring a model into memory.
struct ReadOptions {
  /// Types of the run; none: f32, with a copy in bf16 for the products where the file's weights are bf16 (the
  /// same numbers, half the bytes).
  std::optional<Precision> precision = {};
  bool table_in_memory = false;  ///< copy the table as the run's wide type (training, baking)
  /// For inference alone: weights stored as bf16 or smaller are packed for this context's backend and read as
  /// they are; f32 ones and mixtures of experts stay plain. Such a model cannot be trained, written or taken
  /// apart.
  const Context* serving = nullptr;
  TableOptions table = {};  ///< where it lies otherwise
};

/// Reads them back. Throws Error naming file, tensor, expected and found for anything missing, extra or of
/// another shape. The caller refreshes model.compute when precision.narrow differs.
Model read_model_files(const std::filesystem::path& dir, const ReadOptions& options);

/// Byte offset of token `t`'s record in the table file, and its size in bytes.
struct RecordAddress {
  std::uint64_t offset = 0, bytes = 0;
};
RecordAddress record_address(const Safetensors& table_file, std::int64_t token);

}  // namespace stem
