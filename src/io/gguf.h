// The GGUF format: typed metadata and tensors, whole or in quantised blocks, in one file. Mapped reading with
// full validation.
// Source: docs/formats/gguf.md; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/file.h"
#include "io/gguf_blocks.h"

namespace stem {

/// One tensor of a file.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  std::vector<std::int64_t> shape;   ///< row-major, outermost first (files list it innermost first)
  std::uint64_t offset = 0;          ///< first byte, from the start of the file
  std::span<const std::byte> bytes;  ///< in the map; valid while the Gguf or a copy of it lives

  std::int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  std::int64_t rows() const;      ///< product of all extents but the last
  std::int64_t elements() const;  ///< product of the shape
  std::string described() const;  ///< "Q4_K [2, 256]", as error messages show it
};

/// A GGUF file of version 2 or 3, little endian, mapped. Copies share the map. Nothing but the header is read
/// before a tensor is touched.
class Gguf {
 public:
  /// Validates the whole header, of at most 100 MB, 65,536 keys, 100,000 tensors and 4 million strings:
  /// lengths and counts against the file, value types, keys and names (printable ASCII, each once), extents
  /// (at most 4, products that overflow, rows that are no whole number of blocks), alignment (a power of two
  /// in [8, 65536]), and that the tensors' bytes are aligned, inside the file and apart from each other.
  /// kFormat names file, field, expected and found.
  static Gguf open(const std::filesystem::path& path);

  // Metadata. The plain getters want the key: kFormat if it is absent (with the nearest key) or has another
  // type. The forms with `find_` return nothing if it is absent, and still refuse another type.

  const std::string& text(std::string_view key) const;  ///< any bytes; the format asks for UTF-8
  bool flag(std::string_view key) const;
  /// From any integer type.
  std::int64_t integer(std::string_view key, std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                       std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  /// A finite number, from any number type.
  double number(std::string_view key) const;
  const std::vector<std::string>& strings(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key) const;  ///< an array of any integer type
  std::vector<double> numbers(std::string_view key) const;  ///< an array of any number type; may hold NaN

  const std::string* find_text(std::string_view key) const;
  std::optional<bool> find_flag(std::string_view key) const;
  std::optional<std::int64_t> find_integer(std::string_view key,
                                           std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                                           std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  std::optional<double> find_number(std::string_view key) const;
  const std::vector<std::string>* find_strings(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> find_integers(std::string_view key) const;
  std::optional<std::vector<double>> find_numbers(std::string_view key) const;

  bool has(std::string_view key) const { return values_.contains(key); }
  std::vector<std::string> keys() const;  ///< ascending
  /// The value as error messages show it: `uint32 5`, `an array of 3 strings`, `nothing`.
  std::string described(std::string_view key) const;

  // Tensors.

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  ///< in the file's order
  const GgufTensor* find_tensor(std::string_view name) const;          ///< null if absent
  const GgufTensor& tensor(std::string_view name) const;               ///< kNotFound, with the nearest name
  /// As `tensor`; kMismatch unless the shape is this one. An extent of -1 matches any.
  const GgufTensor& expect(std::string_view name, std::span<const std::int64_t> shape) const;
  /// Rows from `first` on as f32, as many as `to` holds; overwrites. The bytes are copied with checks: a file
  /// that was cut after it was opened is an Error, not a signal. kFormat, naming file and tensor, for types
  /// that `can_dequantise` denies. Thread safe.
  void read_rows(const GgufTensor& tensor, std::int64_t first, std::span<float> to) const;

  std::uint32_t version() const { return version_; }
  std::uint64_t alignment() const { return alignment_; }    ///< bytes
  std::uint64_t data_start() const { return data_start_; }  ///< offset 0 of the tensors, in the file
  const MappedFile& file() const { return *file_; }
  std::string path() const { return file_->path().string(); }

  /// A metadata value as the file holds it.
  struct Value {
    std::uint32_t type = 0;  ///< the format's number of the type, of the elements for an array
    bool is_array = false;
    std::uint64_t count = 1;           ///< elements
    std::string bytes;                 ///< numbers: little endian, one after the other; a text: itself
    std::vector<std::string> strings;  ///< an array of texts

    std::string described() const;
  };

 private:
  const Value* find(std::string_view key) const;
  const Value& at(std::string_view key, std::string_view expected) const;
  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Value, std::less<>> values_;  // ordered: nobody can craft keys that make it slow
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  // name -> position in tensors_
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32, data_start_ = 0;
};

}  // namespace stem
