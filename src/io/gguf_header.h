// The bytes of a GGUF header, taken front to back with checks. Used by gguf.cc alone.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/file.h"

namespace stem::gguf {

inline constexpr std::uint64_t kMaxHeader = 100'000'000;  // as safetensors; real ones reach 20 MB

// The format's value types, by number.
enum ValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kValueTypes
};

struct ValueTypeInfo {
  std::string_view name;
  std::uint64_t bytes;  // 0: of no fixed size
};
inline constexpr std::array<ValueTypeInfo, kValueTypes> kValueTypeInfo = {{
    {"uint8", 1},
    {"int8", 1},
    {"uint16", 2},
    {"int16", 2},
    {"uint32", 4},
    {"int32", 4},
    {"float32", 4},
    {"bool", 1},
    {"string", 0},
    {"array", 0},
    {"uint64", 8},
    {"int64", 8},
    {"float64", 8},
}};

/// `count` bytes, at most 8, as an unsigned number, least significant first.
inline std::uint64_t little_endian(const char* bytes, std::uint64_t count) {
  std::uint64_t value = 0;
  for (std::uint64_t i = count; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

/// What a read was for, in messages: "tensor 3", "metadata entry 7 \"general.name\"".
struct Place {
  std::string_view kind;  ///< empty: the header itself
  std::uint64_t index = 0;
  std::string_view name;  ///< printable; empty as long as it is unknown
};

/// Reads the header by pread in pieces, so that neither a lying length nor a file that shrinks costs more
/// than an Error.
class HeaderReader {
 public:
  explicit HeaderReader(const MappedFile& file);

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return limit_ - position_; }

  /// Refuses `count` bytes that the file, or the limit of headers, does not have.
  void need(std::uint64_t count, const Place& place, std::string_view field) const;
  void read(char* to, std::uint64_t count, const Place& place, std::string_view field);
  std::string bytes(std::uint64_t count, const Place& place, std::string_view field);
  std::uint32_t u32(const Place& place, std::string_view field);
  std::uint64_t u64(const Place& place, std::string_view field);
  /// A length and that many bytes.
  std::string text(const Place& place, std::string_view field);
  /// The same for a key or a tensor's name: 1 to `max` bytes of printable ASCII.
  std::string name(std::uint64_t max, const Place& place, std::string_view field);

  /// "FILE: tensor 3 \"x\": field"
  std::string where(const Place& place, std::string_view field) const;

 private:
  const MappedFile& file_;
  std::uint64_t limit_, position_ = 0;
  std::vector<char> buffer_;
  std::uint64_t buffer_start_ = 0, buffer_size_ = 0;
};

}  // namespace stem::gguf
