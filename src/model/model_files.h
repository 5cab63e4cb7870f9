// A model directory's own files, in the Hugging Face layout (stem-spec §6): config.json, model.safetensors,
// stem_table.safetensors. Tokenizer and manifest belong to other rooms.
#pragma once

#include <filesystem>
#include <optional>

#include "model/model.h"

namespace stem {

inline constexpr const char* kConfigFile = "config.json";
inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kTableFile = "stem_table.safetensors";

/// Writes the three files into `dir` (which exists); values are stored as `dtype`, f32 or bf16. The table's
/// data starts on a 4,096-byte boundary. An absent table writes no file.
void write_model_files(const std::filesystem::path& dir, const Model& model, DType dtype = DType::f32);

/// How to bring a model into memory.
struct ReadOptions {
  /// Types of the run; none: f32, with a copy in bf16 for the products where the file's weights are bf16 (the
  /// same numbers, half the bytes).
  std::optional<Precision> precision = {};
  bool table_in_memory = false;  ///< copy the table (training, baking); else map the file
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
