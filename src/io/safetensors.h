// The safetensors format: named tensors behind a JSON header. Mapped reading with full validation, streaming
// writing with deterministic bytes.
// Source: docs/formats/table.md; https://huggingface.co/docs/safetensors (format section).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/view.h"
#include "io/file.h"

namespace stem {

/// One tensor of a file.
struct TensorInfo {
  std::string name;
  std::string type;                 ///< element type as the file spells it: "BF16"
  std::optional<DType> dtype;       ///< the same, where core has it (BOOL, U32, F8_… have none)
  std::vector<std::int64_t> shape;  ///< outermost first; empty: a scalar
  std::uint64_t offset = 0;         ///< first byte, from the start of the file
  std::uint64_t bytes = 0;

  std::int64_t elements() const;  ///< product of the shape
  std::string described() const;  ///< "BF16 [2, 3]", as error messages show it
};

/// A safetensors file, mapped. Copies share the map. Nothing but the header is read before a tensor is
/// touched.
class Safetensors {
 public:
  /// Validates the whole header: its length (at most 100 MB), JSON (at most 2 million
  /// values, about 250,000 tensors), types, dimensions (products that
  /// overflow), and that the tensors' bytes follow each other without hole or overlap and end where the file
  /// ends. kFormat names file, tensor, expected and found.
  static Safetensors open(const std::filesystem::path& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  ///< by offset
  std::vector<std::string> names() const;                              ///< by offset
  bool has(std::string_view name) const;
  /// kNotFound, with the nearest name, if absent.
  const TensorInfo& info(std::string_view name) const;
  /// As `info`; kMismatch unless type and shape are these. A shape of -1 matches any extent.
  const TensorInfo& expect(std::string_view name, DType dtype, std::span<const std::int64_t> shape) const;

  /// First byte of the tensor, in the map. May be unaligned in files that others wrote; see `matrix`.
  const void* data(std::string_view name) const;
  const void* data(const TensorInfo& info) const;
  /// View [rows, cols] of a 2-D tensor, or of a 1-D tensor of cols elements for rows = 1. kMismatch on
  /// another shape; kFormat if the type has no dtype or the data is not aligned to its elements.
  In matrix(std::string_view name, std::int64_t rows, std::int64_t cols) const;

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::uint64_t data_start() const { return data_start_; }  ///< bytes before the first tensor
  const MappedFile& file() const { return *file_; }
  std::string path() const { return file_->path().string(); }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, std::size_t> index_;  // name -> position in tensors_
  std::map<std::string, std::string> metadata_;
  std::uint64_t data_start_ = 0;
};

/// What a writer will write.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
};

/// Writes one file, tensors in the order of the specs. Put it in a StagedDirectory: the file is complete only
/// after `close`. The same specs, metadata and data give the same bytes.
class SafetensorsWriter {
 public:
  /// Writes the header, padded with spaces so that data starts on a multiple of `data_alignment` (a multiple
  /// of 8). Each tensor must start on a multiple of its element size: list wider types first.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> specs,
                    const std::map<std::string, std::string>& metadata = {},
                    std::uint64_t data_alignment = 8);

  /// The next `bytes` bytes of tensor `name`: all of it, or one of several pieces in order. A tensor is
  /// finished before the next one begins.
  void write(std::string_view name, const void* data, std::uint64_t bytes);
  /// A whole tensor from a view (rows written one by one where they are strided).
  void write(std::string_view name, const In& view);
  /// Checks that every tensor is complete; syncs and closes.
  void close();
  std::uint64_t data_start() const { return data_start_; }

 private:
  void skip_empty();

  FileWriter file_;
  std::vector<TensorSpec> specs_;
  std::size_t current_ = 0;    // spec being written
  std::uint64_t written_ = 0;  // bytes of it
  std::uint64_t data_start_ = 0;
};

/// The format's spelling of a dtype: "F32", "BF16", …
std::string_view safetensors_name(DType dtype);

/// Whole small file in one call: `tensors[i]` holds the bytes of `specs[i]`.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorSpec>& specs,
                       std::span<const In> tensors, const std::map<std::string, std::string>& metadata = {},
                       std::uint64_t data_alignment = 8);

}  // namespace stem
