#include "io/gguf_blocks.h"

#include <array>
#include <bit>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"

namespace stem {
namespace {

// Reads the rows: `count` blocks, one behind the other.
using Reader = void (*)(const std::uint8_t* block, std::int64_t count, float* to);

std::uint16_t u16_at(const std::uint8_t* bytes) {
  return static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8);
}

std::uint32_t u32_at(const std::uint8_t* bytes) {
  return static_cast<std::uint32_t>(u16_at(bytes)) | static_cast<std::uint32_t>(u16_at(bytes + 2)) << 16;
}

float half_at(const std::uint8_t* bytes) {
  return from_half(u16_at(bytes));
}

void read_f32(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = std::bit_cast<float>(u32_at(block + 4 * i));
}

void read_f16(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = half_at(block + 2 * i);
}

void read_bf16(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = std::bit_cast<float>(static_cast<std::uint32_t>(u16_at(block + 2 * i)) << 16);
  }
}

// d: f16, q: i8 [32]
void read_q8_0(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 34, to += 32) {
    const float d = half_at(block);
    for (int i = 0; i < 32; ++i) to[i] = d * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
  }
}

// d: f16, q: u4 [32], value i in the low half of byte i, value 16 + i in the high half; stored q + 8
void read_q4_0(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 18, to += 32) {
    const float d = half_at(block);
    for (int i = 0; i < 16; ++i) {
      const int pair = block[2 + i];
      to[i] = d * static_cast<float>((pair & 15) - 8);
      to[16 + i] = d * static_cast<float>((pair >> 4) - 8);
    }
  }
}

// d, m: f16, q: u4 [32] as in Q4_0
void read_q4_1(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 20, to += 32) {
    const float d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 16; ++i) {
      const int pair = block[4 + i];
      to[i] = d * static_cast<float>(pair & 15) + m;
      to[16 + i] = d * static_cast<float>(pair >> 4) + m;
    }
  }
}

// d: f16, fifth bits: u32 (bit i of value i), low bits: u4 [32] as in Q4_0; stored q + 16
void read_q5_0(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 22, to += 32) {
    const float d = half_at(block);
    const std::uint32_t high = u32_at(block + 2);
    for (int i = 0; i < 16; ++i) {
      const int pair = block[6 + i];
      const int first = static_cast<int>(high >> i & 1) << 4 | (pair & 15);
      const int second = static_cast<int>(high >> (16 + i) & 1) << 4 | pair >> 4;
      to[i] = d * static_cast<float>(first - 16);
      to[16 + i] = d * static_cast<float>(second - 16);
    }
  }
}

// d, m: f16, fifth bits: u32, low bits: u4 [32]
void read_q5_1(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 24, to += 32) {
    const float d = half_at(block), m = half_at(block + 2);
    const std::uint32_t high = u32_at(block + 4);
    for (int i = 0; i < 16; ++i) {
      const int pair = block[8 + i];
      const int first = static_cast<int>(high >> i & 1) << 4 | (pair & 15);
      const int second = static_cast<int>(high >> (16 + i) & 1) << 4 | pair >> 4;
      to[i] = d * static_cast<float>(first) + m;
      to[16 + i] = d * static_cast<float>(second) + m;
    }
  }
}

// The eight pairs (scale, minimum) of six bits in the 12 bytes of Q4_K and Q5_K: bytes 0-3 and 4-7 hold the
// first four scales and minima; their upper two bits, and the nibbles of bytes 8-11, make the last four.
struct Scales {
  std::array<int, 8> scale, minimum;

  explicit Scales(const std::uint8_t* bytes) {
    for (std::size_t i = 0; i < 4; ++i) {
      const int low = bytes[i], middle = bytes[4 + i], high = bytes[8 + i];
      scale[i] = low & 63;
      minimum[i] = middle & 63;
      scale[4 + i] = (low >> 6) << 4 | (high & 15);
      minimum[4 + i] = (middle >> 6) << 4 | high >> 4;
    }
  }
};

// d, m: f16, 12 bytes of scales for 8 groups of 32, q: u4 [256]: 32 bytes hold group 2g in their low halves,
// group 2g + 1 in their high ones
void read_q4_k(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 144) {
    const float d = half_at(block), m = half_at(block + 2);
    const Scales scales(block + 4);
    for (std::size_t pair = 0; pair < 4; ++pair, to += 64) {
      const std::uint8_t* q = block + 16 + 32 * pair;
      const float d0 = d * static_cast<float>(scales.scale[2 * pair]);
      const float d1 = d * static_cast<float>(scales.scale[2 * pair + 1]);
      const float m0 = m * static_cast<float>(scales.minimum[2 * pair]);
      const float m1 = m * static_cast<float>(scales.minimum[2 * pair + 1]);
      for (int i = 0; i < 32; ++i) {
        to[i] = d0 * static_cast<float>(q[i] & 15) - m0;
        to[32 + i] = d1 * static_cast<float>(q[i] >> 4) - m1;
      }
    }
  }
}

// As Q4_K, with 32 bytes of fifth bits before the low ones: bit g of byte i for value i of group g
void read_q5_k(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 176) {
    const float d = half_at(block), m = half_at(block + 2);
    const Scales scales(block + 4);
    const std::uint8_t* high = block + 16;
    for (std::size_t pair = 0; pair < 4; ++pair, to += 64) {
      const std::uint8_t* q = block + 48 + 32 * pair;
      const float d0 = d * static_cast<float>(scales.scale[2 * pair]);
      const float d1 = d * static_cast<float>(scales.scale[2 * pair + 1]);
      const float m0 = m * static_cast<float>(scales.minimum[2 * pair]);
      const float m1 = m * static_cast<float>(scales.minimum[2 * pair + 1]);
      for (int i = 0; i < 32; ++i) {
        const int fifth = high[i] >> (2 * pair);
        to[i] = d0 * static_cast<float>((fifth & 1) << 4 | (q[i] & 15)) - m0;
        to[32 + i] = d1 * static_cast<float>((fifth & 2) << 3 | q[i] >> 4) - m1;
      }
    }
  }
}

// low bits: u4 [256], upper two bits: u2 [256], scales: i8 [16] for groups of 16, d: f16; stored q + 32. Each
// half of the block: 64 bytes of low bits hold values 0-63 in their low halves, 64-127 in their high ones;
// 32 bytes of upper bits hold those of values i, 32 + i, 64 + i, 96 + i.
void read_q6_k(const std::uint8_t* block, std::int64_t count, float* to) {
  for (std::int64_t b = 0; b < count; ++b, block += 210) {
    const float d = half_at(block + 208);
    std::array<float, 16> scale;
    for (std::size_t g = 0; g < 16; ++g) {
      scale[g] = d * static_cast<float>(static_cast<std::int8_t>(block[192 + g]));
    }
    for (std::size_t side = 0; side < 2; ++side, to += 128) {
      const std::uint8_t* low = block + 64 * side;
      const std::uint8_t* high = block + 128 + 32 * side;
      const float* s = scale.data() + 8 * side;
      for (std::size_t part = 0; part < 2; ++part) {  // values 16·part + i of each run of 32
        for (std::size_t i = 16 * part; i < 16 * part + 16; ++i) {
          const int upper = high[i];
          to[i] = s[part] * static_cast<float>(((upper & 3) << 4 | (low[i] & 15)) - 32);
          to[32 + i] = s[2 + part] * static_cast<float>(((upper >> 2 & 3) << 4 | (low[32 + i] & 15)) - 32);
          to[64 + i] = s[4 + part] * static_cast<float>(((upper >> 4 & 3) << 4 | low[i] >> 4) - 32);
          to[96 + i] = s[6 + part] * static_cast<float>(((upper >> 6) << 4 | low[32 + i] >> 4) - 32);
        }
      }
    }
  }
}

struct Type {
  std::uint32_t number;
  std::string_view name;
  std::int64_t values, bytes;  // of one block
  Reader read = nullptr;
};

// Every type of the format: tensors of those without a reader can be listed and skipped.
constexpr std::array<Type, 34> kTypes = {{
    {0, "F32", 1, 4, read_f32},
    {1, "F16", 1, 2, read_f16},
    {2, "Q4_0", 32, 18, read_q4_0},
    {3, "Q4_1", 32, 20, read_q4_1},
    {6, "Q5_0", 32, 22, read_q5_0},
    {7, "Q5_1", 32, 24, read_q5_1},
    {8, "Q8_0", 32, 34, read_q8_0},
    {9, "Q8_1", 32, 40},
    {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144, read_q4_k},
    {13, "Q5_K", 256, 176, read_q5_k},
    {14, "Q6_K", 256, 210, read_q6_k},
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},
    {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2, read_bf16},
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},
    {41, "Q1_0", 128, 18},
}};

const Type* find(std::uint32_t number) {
  for (const Type& type : kTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

const Type& of(GgmlType type) {
  const Type* found = find(static_cast<std::uint32_t>(type));
  require(found != nullptr, "a type of the format");
  return *found;
}

}  // namespace

std::optional<GgmlType> ggml_type(std::uint32_t number) {
  if (find(number) == nullptr) return std::nullopt;
  return static_cast<GgmlType>(number);
}

std::string_view name_of(GgmlType type) {
  return of(type).name;
}

std::int64_t block_values(GgmlType type) {
  return of(type).values;
}

std::int64_t block_bytes(GgmlType type) {
  return of(type).bytes;
}

std::uint64_t row_bytes(GgmlType type, std::int64_t cols) {
  const Type& entry = of(type);
  require(cols >= 0, "a row has no negative length");
  if (cols % entry.values != 0) {
    fail(ErrorCode::kFormat, "{}: expected a multiple of {} values, found {}", entry.name, entry.values,
         cols);
  }
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(cols / entry.values, entry.bytes, &bytes)) {
    fail(ErrorCode::kFormat, "{}: the size of {} values overflows", entry.name, cols);
  }
  return bytes;
}

bool can_dequantise(GgmlType type) {
  return of(type).read != nullptr;
}

void dequantise(GgmlType type, std::span<const std::byte> row, std::span<float> to) {
  const Type& entry = of(type);
  if (entry.read == nullptr) fail(ErrorCode::kFormat, "cannot compute with type {}", entry.name);
  const auto values = static_cast<std::int64_t>(to.size());
  require(row.size() == row_bytes(type, values), "bytes and values of a row fit each other");
  entry.read(reinterpret_cast<const std::uint8_t*>(row.data()), values / entry.values, to.data());
}

}  // namespace stem
