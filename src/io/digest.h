// SHA-256 (OpenSSL's libcrypto), and the digest that names one row of a table.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "core/dtype.h"

namespace stem {

using Digest = std::array<std::uint8_t, 32>;
using Uuid = std::array<std::uint8_t, 16>;

/// SHA-256 of bytes fed piece by piece.
class Sha256 {
 public:
  Sha256();
  void update(const void* bytes, std::size_t count);
  void update(std::string_view bytes) { update(bytes.data(), bytes.size()); }
  /// The digest; afterwards the object is as new.
  Digest finish();

 private:
  struct Free {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Free> context_;
};

Digest sha256(std::string_view bytes);
/// Reads the file (regular files only) in pieces of 1 MiB; `bytes`, if given, receives how many there were.
Digest sha256_file(const std::filesystem::path& path, std::uint64_t* bytes = nullptr);

/// 64 lower-case hexadecimal digits.
std::string to_hex(const Digest& digest);
/// False unless `text` is exactly 64 lower-case hexadecimal digits.
bool from_hex(std::string_view text, Digest* digest);

/// A random (version 4) UUID of RFC 4122, from the operating system's generator.
Uuid random_uuid();
/// 8-4-4-4-12 lower-case digits.
std::string uuid_text(const Uuid& uuid);
/// False unless `text` has the form of `uuid_text`.
bool parse_uuid(std::string_view text, Uuid* uuid);

/// Digest of row (token, layer): SHA-256(0x00 | "stem-row-v1" | uuid, 16 bytes | layer u32 | token u32 |
/// dtype u8 | row bytes), integers little-endian. `layer` counts the model's layers, not the STEM layers. The
/// dtype codes are 0 f32, 1 bf16, 2 f64, 3 f16, 4 i64, 5 i32, 6 u16, 7 u8, 8 i8. Source:
/// docs/formats/patch.md.
Digest row_leaf(const Uuid& model, std::uint32_t layer, std::uint32_t token, DType dtype,
                std::string_view row);

}  // namespace stem
