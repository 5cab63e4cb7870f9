#include "io/gguf_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "io/gguf.h"

namespace stem {
namespace {

Gguf golden() {
  return Gguf::open(std::filesystem::path(STEM_SOURCE_DIR) / "tests" / "golden" / "gguf" / "blocks.gguf");
}

std::vector<float> values_of(const GgufTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  dequantise(tensor.type, tensor.bytes, values);
  return values;
}

// Bit for bit: products of a half, a small scale and a small integer are exact in f32.
TEST(GgufBlocks, EveryTypeGivesTheGoldenBits) {
  const Gguf file = golden();
  int types = 0;
  for (const char* name :
       {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"}) {
    const GgufTensor& tensor = file.tensor(name);
    EXPECT_EQ(name_of(tensor.type), name);
    EXPECT_TRUE(can_dequantise(tensor.type));
    const std::vector<float> values = values_of(tensor);
    const std::vector<float> expected = values_of(file.expect(std::string(name) + ".expected", tensor.shape));
    ASSERT_EQ(values.size(), expected.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), std::bit_cast<std::uint32_t>(expected[i]))
          << name << " value " << i << ": " << values[i] << " for " << expected[i];
    }
    ++types;
  }
  EXPECT_EQ(static_cast<std::size_t>(2 * types), file.tensors().size());
}

TEST(GgufBlocks, RowsNeedNoAlignmentAndStayApart) {
  const Gguf file = golden();
  for (const GgufTensor& tensor : file.tensors()) {
    const std::vector<float> whole = values_of(tensor);
    const std::uint64_t row = row_bytes(tensor.type, tensor.cols());
    std::vector<std::byte> shifted(row + 1);
    const std::uint64_t last = static_cast<std::uint64_t>(tensor.rows()) - 1;
    std::memcpy(shifted.data() + 1, tensor.bytes.data() + last * row, row);
    std::vector<float> values(static_cast<std::size_t>(tensor.cols()) + 1, 7.0f);
    dequantise(tensor.type, std::span(shifted).subspan(1), std::span(values).first(values.size() - 1));
    EXPECT_EQ(std::memcmp(values.data(), whole.data() + last * (values.size() - 1), 4 * (values.size() - 1)),
              0)
        << tensor.name;
    EXPECT_EQ(values.back(), 7.0f) << tensor.name;
  }
}

// All 65,536 halves against the definition: (-1)^s · m · 2^(max(e, 1) - 25), where m has the implicit bit.
TEST(GgufBlocks, HalvesFollowTheDefinition) {
  for (std::uint32_t bits = 0; bits < 65'536; ++bits) {
    const std::array<std::byte, 2> row{static_cast<std::byte>(bits & 255), static_cast<std::byte>(bits >> 8)};
    float value = 0;
    dequantise(GgmlType::f16, row, std::span(&value, 1));
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const auto mantissa = static_cast<double>(bits & 1023);
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0) << bits;
      EXPECT_EQ(std::isinf(value), mantissa == 0) << bits;
    } else {
      const double whole = exponent == 0 ? mantissa : mantissa + 1024;
      EXPECT_EQ(std::fabs(value), std::ldexp(whole, std::max(exponent, 1) - 25)) << bits;
    }
    EXPECT_EQ(std::signbit(value), bits >= 0x8000) << bits;
  }
}

TEST(GgufBlocks, SizesOfRows) {
  EXPECT_EQ(row_bytes(GgmlType::f32, 3), 12u);
  EXPECT_EQ(row_bytes(GgmlType::bf16, 0), 0u);
  EXPECT_EQ(row_bytes(GgmlType::q4_1, 64), 40u);
  EXPECT_EQ(row_bytes(GgmlType::q6_k, 512), 420u);
  EXPECT_EQ(block_values(GgmlType::q5_k), 256);
  EXPECT_EQ(block_bytes(GgmlType::q5_k), 176);
  try {
    row_bytes(GgmlType::q4_k, 128);
    FAIL() << "128 values of Q4_K were accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "Q4_K: expected a multiple of 256 values, found 128");
  }
  EXPECT_THROW(row_bytes(GgmlType::f32, std::int64_t{1} << 62), Error);  // 2^64 bytes
  EXPECT_THROW(row_bytes(GgmlType::q4_0, 31), Error);
}

TEST(GgufBlocks, OtherTypesHaveNamesAndAreRefused) {
  EXPECT_FALSE(ggml_type(4));  // a number that the format retired
  EXPECT_FALSE(ggml_type(0xffffffff));
  const GgmlType type = ggml_type(20).value();
  EXPECT_EQ(name_of(type), "IQ4_NL");
  EXPECT_FALSE(can_dequantise(type));
  std::vector<std::byte> row(18);
  std::vector<float> values(32);
  try {
    dequantise(type, row, values);
    FAIL() << "IQ4_NL was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_STREQ(error.what(), "cannot compute with type IQ4_NL");
  }
}

TEST(GgufBlocks, BytesAndValuesThatDoNotFitAreOurBug) {
  std::vector<std::byte> row(34);
  std::vector<float> values(64);
  EXPECT_DEATH(dequantise(GgmlType::q8_0, row, values), "fit each other");
}

}  // namespace
}  // namespace stem
