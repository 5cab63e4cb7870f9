// Stored rows against what they should hold.
#include "core/weight_format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/rng.h"

namespace stem {
namespace {

std::vector<float> normal_row(std::size_t count, std::uint64_t seed) {
  const Rng rng(seed, 0);
  std::vector<float> row(count);
  for (std::size_t i = 0; i < count; ++i) row[i] = static_cast<float>(0.05 * rng.normal_at(i));
  return row;
}

std::vector<float> round_trip(WeightFormat format, const std::vector<float>& row) {
  std::vector<std::byte> stored(
      static_cast<std::size_t>(stored_row_bytes(format, static_cast<std::int64_t>(row.size()))));
  store_row(format, row, stored.data());
  std::vector<float> back(row.size());
  read_row(format, stored.data(), back);
  return back;
}

double relative_error(WeightFormat format, const std::vector<float>& row) {
  const std::vector<float> back = round_trip(format, row);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    error += std::pow(static_cast<double>(back[i]) - static_cast<double>(row[i]), 2);
    norm += std::pow(static_cast<double>(row[i]), 2);
  }
  return std::sqrt(error / norm);
}

TEST(WeightFormat, NamesReadBack) {
  for (const auto format :
       {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4, WeightFormat::int4_f16})
    EXPECT_EQ(weight_format(name_of(format)), format);
  EXPECT_FALSE(weight_format("int3"));
}

TEST(WeightFormat, ErrorsAreThoseOfTheirBits) {
  for (const std::size_t count : {32u, 576u, 100u, 7u}) {
    const std::vector<float> row = normal_row(count, count);
    EXPECT_LT(relative_error(WeightFormat::bf16, row), 0.003);
    EXPECT_LT(relative_error(WeightFormat::int8, row), 0.008);
    EXPECT_LT(relative_error(WeightFormat::int4, row), 0.09);
    EXPECT_LT(relative_error(WeightFormat::int4_f16, row), 0.1);
  }
  // The search is worth its time: half a bit a value less than the plain form, and no worse.
  const std::vector<float> row = normal_row(4096, 1);
  EXPECT_LT(relative_error(WeightFormat::int4, row), 0.99 * relative_error(WeightFormat::int4_f16, row));
}

TEST(WeightFormat, ZerosConstantsAndOneSidedRowsSurvive) {
  for (const auto format : {WeightFormat::int8, WeightFormat::int4, WeightFormat::int4_f16}) {
    const std::vector<float> zeros(64, 0.0f), positive(64, 0.25f), negative(64, -0.25f);
    EXPECT_EQ(round_trip(format, zeros), zeros);
    for (const auto& row : {positive, negative}) {
      for (const float v : round_trip(format, row)) EXPECT_NEAR(v, row[0], 0.002f) << name_of(format);
    }
    std::vector<float> tiny(32, 1e-20f);
    tiny[3] = -2e-20f;
    for (const float v : round_trip(format, tiny)) EXPECT_LT(std::abs(v), 1e-6f);
  }
}

TEST(WeightFormat, HalvesRoundToNearestEven) {
  EXPECT_EQ(to_half(1.0f), 0x3c00);
  EXPECT_EQ(to_half(-2.0f), 0xc000);
  EXPECT_EQ(to_half(65504.0f), 0x7bff);
  EXPECT_EQ(to_half(65519.0f), 0x7bff);
  EXPECT_EQ(to_half(65520.0f), 0x7c00);
  EXPECT_EQ(to_half(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(to_half(0x1p-24f), 0x0001);
  EXPECT_EQ(to_half(0x1p-25f), 0x0000);
  EXPECT_EQ(to_half(0x1.8p-24f), 0x0002);
  EXPECT_EQ(to_half(1.0f + 0x1p-11f), 0x3c00);
  EXPECT_EQ(to_half(1.0f + 0x1.8p-10f), 0x3c02);
  for (std::uint32_t h = 0; h < 0x7c00; ++h)
    ASSERT_EQ(to_half(from_half(static_cast<std::uint16_t>(h))), h) << h;
}

TEST(WeightFormat, ActivationsKeepTheirLargestValue) {
  std::vector<float> x = normal_row(70, 3);
  x[5] = 127.0f;
  std::vector<std::int8_t> q(96);
  std::vector<float> scale(3);
  quantise_activations(x, q.data(), scale.data());
  EXPECT_EQ(q[5], 127);
  EXPECT_EQ(scale[0], 1.0f);
  for (std::size_t i = 70; i < 96; ++i) EXPECT_EQ(q[i], 0);
  for (std::size_t i = 32; i < 70; ++i)
    EXPECT_NEAR(scale[i / 32] * static_cast<float>(q[i]), x[i], 0.51f * scale[i / 32]);
}

}  // namespace
}  // namespace stem
