// Other formats' models as models of this engine: GGUF files, Hugging Face directories, llama2.c checkpoints.
// Source: docs/guide/import.md.
#pragma once

#include <filesystem>
#include <string>

#include "model/model.h"
#include "text/tokenizer.h"

namespace stem {

/// What an import brings: a model in f32, ready to be saved.
struct ImportedModel {
  Model model;  ///< {f32, f32}; dense, but for a STEM model that `stem export` wrote, its table in memory
  Tokenizer tokenizer;
  std::string source;         ///< for people: "GGUF, llama, Q4_1 and Q8_0"
  DType stored = DType::f32;  ///< the narrowest of f32 and bf16 that holds the source's values exactly
  std::optional<DType> rows_stored = {};  ///< the same of the table's rows; none without a table
};

/// A GGUF file of the architectures llama, qwen2 and qwen3, its tokenizer and chat template included. Throws
/// Error naming file, key or tensor, expected and found: any other architecture, mixtures of experts, tensors
/// missing, of another shape or unknown.
ImportedModel import_gguf(const std::filesystem::path& path);

/// A Hugging Face directory of the model types llama, qwen2, qwen3, and stem as `stem export` writes it:
/// config.json, model.safetensors or shards with an index, tokenizer.json. Throws Error as import_gguf does.
ImportedModel import_hugging_face(const std::filesystem::path& directory);

/// A checkpoint of llama2.c (version 0, f32) and its tokenizer file.
ImportedModel import_llama2c(const std::filesystem::path& path, const std::filesystem::path& tokenizer);

/// By what `path` is: a directory, a file that begins with "GGUF", or else llama2.c's. `tokenizer` (empty:
/// none) belongs to the last alone.
ImportedModel import_model(const std::filesystem::path& path, const std::filesystem::path& tokenizer = {});

}  // namespace stem
