#include "core/weight_format.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::array<std::string_view, 4> kNames{"bf16", "int8", "int4", "int4_f16"};
constexpr std::int64_t kHalfGroup = kWeightGroup / 2;

std::uint16_t u16_at(const std::byte* bytes) {
  std::uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}
void put_u16(std::byte* to, std::uint16_t value) {
  std::memcpy(to, &value, sizeof(value));
}
float bf16_at(const std::byte* bytes) {
  bf16 value;
  value.bits = u16_at(bytes);
  return static_cast<float>(value);
}

// Values of group g; what lies behind the row's end is zero.
using Group = std::array<float, kWeightGroup>;
Group group_of(std::span<const float> row, std::int64_t g) {
  Group values{};
  const auto first = static_cast<std::size_t>(g * kWeightGroup);
  const std::size_t count = std::min<std::size_t>(kWeightGroup, row.size() - first);
  std::copy_n(row.begin() + static_cast<std::ptrdiff_t>(first), count, values.begin());
  return values;
}

// Added and subtracted, it leaves the nearest integer, to even on ties: 1.5 · 2^23 has no fractions.
constexpr float kCounter = 12582912.0f;

int nearest(float value, int low, int high) {
  if (std::isnan(value)) return 0;
  return static_cast<int>(std::clamp(value, static_cast<float>(low), static_cast<float>(high)) + kCounter -
                          kCounter);
}

// Sixteen bytes: value i in the low half of byte i, value 16 + i in the high half.
void put_nibbles(std::byte* to, const std::array<int, kWeightGroup>& q) {
  for (std::size_t i = 0; i < kHalfGroup; ++i) to[i] = static_cast<std::byte>(q[i] | q[i + kHalfGroup] << 4);
}
void get_nibbles(const std::byte* from, std::int8_t* q) {
  for (std::int64_t i = 0; i < kHalfGroup; ++i) {
    q[i] = static_cast<std::int8_t>(static_cast<int>(from[i]) & 15);
    q[i + kHalfGroup] = static_cast<std::int8_t>(static_cast<int>(from[i]) >> 4);
  }
}

// value = scale · q − minimum, minimum >= 0.
struct Line {
  float scale = 0.0f, minimum = 0.0f;
};

std::array<int, kWeightGroup> codes(const Group& x, const Line& line) {
  std::array<int, kWeightGroup> q{};
  const float inverse = line.scale > 0.0f ? 1.0f / line.scale : 0.0f;
  for (std::size_t i = 0; i < x.size(); ++i) q[i] = nearest((x[i] + line.minimum) * inverse, 0, 15);
  return q;
}

// Large values matter more: they meet large sums.
Group importance(const Group& x) {
  float squares = 0.0f;
  for (const float v : x) squares += v * v;
  const float typical = std::sqrt(squares / kWeightGroup);
  Group weight{};
  for (std::size_t i = 0; i < x.size(); ++i) weight[i] = typical + std::abs(x[i]);
  return weight;
}

float error_of(const Group& x, const Group& weight, const Line& line,
               const std::array<int, kWeightGroup>& q) {
  float sum = 0.0f;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float d = line.scale * static_cast<float>(q[i]) - line.minimum - x[i];
    sum += weight[i] * d * d;
  }
  return sum;
}

// The line of least weighted squares through (q, x), its minimum not below zero.
Line least_squares(const Group& x, const Group& weight, const std::array<int, kWeightGroup>& q) {
  double w = 0, wq = 0, wqq = 0, wx = 0, wxq = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double wi = static_cast<double>(weight[i]), qi = q[i], xi = static_cast<double>(x[i]);
    w += wi, wq += wi * qi, wqq += wi * qi * qi, wx += wi * xi, wxq += wi * xi * qi;
  }
  const double det = w * wqq - wq * wq;
  if (det <= 0) return {};
  double scale = (w * wxq - wq * wx) / det, minimum = -(wqq * wx - wq * wxq) / det;
  if (minimum < 0) {
    minimum = 0;
    scale = wqq > 0 ? wxq / wqq : 0;
  }
  return {static_cast<float>(scale), static_cast<float>(minimum)};
}

// From the line between the extremes, and lines that are up to a quarter steeper or flatter: codes, then the
// best line through them, the best of all.
Line best_line(const Group& x, const Group& weight) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  const float minimum = std::max(0.0f, -*low), range = *high + minimum;
  if (range <= 0.0f) return {0.0f, minimum};
  Line best{range / 15.0f, minimum};
  float least = error_of(x, weight, best, codes(x, best));
  for (float steps = 11.5f; steps <= 19.0f; steps += 0.5f) {
    Line line{range / steps, minimum};
    for (int round = 0; round < 2; ++round) {
      line = least_squares(x, weight, codes(x, line));
      if (line.scale <= 0.0f) break;
      const float error = error_of(x, weight, line, codes(x, line));
      if (error < least) least = error, best = line;
    }
  }
  return best;
}

// The smallest bf16 at or above `value`.
bf16 at_least(float value) {
  bf16 up(value);
  if (static_cast<float>(up) < value) ++up.bits;
  return up;
}

void store_int4(std::span<const float> row, std::byte* to) {
  const auto groups = weight_groups(static_cast<std::int64_t>(row.size()));
  std::vector<Line> lines;
  float top_scale = 0.0f, top_minimum = 0.0f;
  for (std::int64_t g = 0; g < groups; ++g) {
    const Group x = group_of(row, g);
    lines.push_back(best_line(x, importance(x)));
    top_scale = std::max(top_scale, lines.back().scale);
    top_minimum = std::max(top_minimum, lines.back().minimum);
  }
  const bf16 unit = at_least(top_scale / 255.0f), minimum_unit = at_least(top_minimum / 255.0f);
  put_u16(to, unit.bits);
  put_u16(to + 2, minimum_unit.bits);
  const float d = static_cast<float>(unit), m = static_cast<float>(minimum_unit);
  for (std::int64_t g = 0; g < groups; ++g) {
    const Group x = group_of(row, g), weight = importance(x);
    const Line& wanted = lines[static_cast<std::size_t>(g)];
    const int s = d > 0.0f ? nearest(wanted.scale / d, 0, 255) : 0,
              n = m > 0.0f ? nearest(wanted.minimum / m, 0, 255) : 0;
    // Both were rounded by themselves; a neighbour of the pair may fit better.
    Line best{};
    int best_s = s, best_n = n;
    float least = -1.0f;
    for (int ds = -1; ds <= 1; ++ds) {
      for (int dn = -1; dn <= 1; ++dn) {
        const int try_s = std::clamp(s + ds, 0, 255), try_n = std::clamp(n + dn, 0, 255);
        const Line line{d * static_cast<float>(try_s), m * static_cast<float>(try_n)};
        const float error = error_of(x, weight, line, codes(x, line));
        if (least < 0.0f || error < least) least = error, best = line, best_s = try_s, best_n = try_n;
      }
    }
    std::byte* const block = to + 4 + g * (2 + kHalfGroup);
    block[0] = static_cast<std::byte>(best_s);
    block[1] = static_cast<std::byte>(best_n);
    put_nibbles(block + 2, codes(x, best));
  }
}

void store_int4_f16(std::span<const float> row, std::byte* to) {
  for (std::int64_t g = 0; g < weight_groups(static_cast<std::int64_t>(row.size())); ++g) {
    const Group x = group_of(row, g);
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    const std::uint16_t scale = to_half((*high - *low) / 15.0f), offset = to_half(*low);
    std::byte* const block = to + g * (4 + kHalfGroup);
    put_u16(block, scale);
    put_u16(block + 2, offset);
    put_nibbles(block + 4, codes(x, {from_half(scale), -from_half(offset)}));
  }
}

void store_int8(std::span<const float> row, std::byte* to) {
  for (std::int64_t g = 0; g < weight_groups(static_cast<std::int64_t>(row.size())); ++g) {
    // Keys are stored at every token: these loops become vectors.
    const Group x = group_of(row, g);
    std::int32_t top = 0;  // magnitudes keep their order as integers
    for (const float v : x) top = std::max(top, std::bit_cast<std::int32_t>(v) & 0x7fffffff);
    const std::uint16_t half = to_half(std::bit_cast<float>(top) / 127.0f);
    const float scale = from_half(half), inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    std::array<std::int8_t, kWeightGroup> q;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float value = std::min(std::max(-127.0f, x[i] * inverse), 127.0f);  // a NaN is −127
      q[i] = static_cast<std::int8_t>(static_cast<int>(value + kCounter - kCounter));
    }
    std::byte* const block = to + g * (2 + kWeightGroup);
    put_u16(block, half);
    std::memcpy(block + 2, q.data(), q.size());
  }
}

}  // namespace

std::string_view name_of(WeightFormat format) {
  return kNames[static_cast<std::size_t>(format)];
}

std::optional<WeightFormat> weight_format(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<WeightFormat>(i);
  }
  return std::nullopt;
}

WeightGroup weight_group(WeightFormat format, const std::byte* row, std::int64_t g) {
  WeightGroup group;
  if (format == WeightFormat::int8) {
    const std::byte* const block = row + g * (2 + kWeightGroup);
    group.scale = from_half(u16_at(block));
    std::memcpy(group.q, block + 2, kWeightGroup);
  } else if (format == WeightFormat::int4) {
    const std::byte* const block = row + 4 + g * (2 + kHalfGroup);
    group.scale = bf16_at(row) * static_cast<float>(block[0]);
    group.offset = -bf16_at(row + 2) * static_cast<float>(block[1]);
    get_nibbles(block + 2, group.q);
  } else {
    require(format == WeightFormat::int4_f16, "a format without groups");
    const std::byte* const block = row + g * (4 + kHalfGroup);
    group.scale = from_half(u16_at(block));
    group.offset = from_half(u16_at(block + 2));
    get_nibbles(block + 4, group.q);
  }
  return group;
}

void store_row(WeightFormat format, std::span<const float> row, std::byte* to) {
  switch (format) {
    case WeightFormat::bf16:
      for (std::size_t i = 0; i < row.size(); ++i) put_u16(to + 2 * i, bf16(row[i]).bits);
      return;
    case WeightFormat::int8:
      return store_int8(row, to);
    case WeightFormat::int4:
      return store_int4(row, to);
    case WeightFormat::int4_f16:
      return store_int4_f16(row, to);
  }
}

void read_row(WeightFormat format, const std::byte* row, std::int64_t first, std::span<float> values) {
  if (format == WeightFormat::bf16) {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = bf16_at(row + 2 * (static_cast<std::size_t>(first) + i));
    return;
  }
  const auto count = static_cast<std::int64_t>(values.size());
  for (std::int64_t g = 0; g < weight_groups(count); ++g) {
    const WeightGroup group = weight_group(format, row, first / kWeightGroup + g);
    for (std::int64_t i = 0; i < std::min(kWeightGroup, count - g * kWeightGroup); ++i) {
      values[static_cast<std::size_t>(g * kWeightGroup + i)] =
          group.scale * static_cast<float>(group.q[i]) + group.offset;
    }
  }
}

void quantise_activations(std::span<const float> x, std::int8_t* q, float* scale) {
  for (std::int64_t g = 0; g < weight_groups(static_cast<std::int64_t>(x.size())); ++g) {
    const Group values = group_of(x, g);
    std::uint32_t bits = 0;  // as unsigned numbers the magnitudes keep their order, and NaN is the largest
    for (const float v : values) bits = std::max(bits, std::bit_cast<std::uint32_t>(v) & 0x7fffffffu);
    const bool nothing = bits < std::bit_cast<std::uint32_t>(kLeastActivation);
    const float top = nothing ? 0.0f : std::bit_cast<float>(bits), inverse = nothing ? 0.0f : 127.0f / top;
    scale[g] = top / 127.0f;
    for (std::size_t i = 0; i < values.size(); ++i)
      q[g * kWeightGroup + static_cast<std::int64_t>(i)] =
          static_cast<std::int8_t>(nearest(values[i] * inverse, -127, 127));
  }
}

}  // namespace stem
