// bf16 rounding, Philox, the workspace, suggestions, times and timelines.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <string>

#include "core/dtype.h"
#include "core/error.h"
#include "core/names.h"
#include "core/rng.h"
#include "core/trace.h"
#include "core/utc.h"
#include "core/workspace.h"

namespace stem {
namespace {

std::uint16_t rounded(std::uint32_t bits) {
  return bf16(std::bit_cast<float>(bits)).bits;
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(rounded(0x3f800000), 0x3f80);  // 1
  EXPECT_EQ(rounded(0x3f808000), 0x3f80);  // half way, even below
  EXPECT_EQ(rounded(0x3f818000), 0x3f82);  // half way, even above
  EXPECT_EQ(rounded(0x3f807fff), 0x3f80);
  EXPECT_EQ(rounded(0x3f808001), 0x3f81);
  EXPECT_EQ(rounded(0xbf818000), 0xbf82);
  EXPECT_EQ(rounded(0x3fffffff), 0x4000);  // the carry reaches the exponent
}

TEST(Bf16, KeepsSpecialValues) {
  EXPECT_EQ(rounded(0x00000000), 0x0000);
  EXPECT_EQ(rounded(0x80000000), 0x8000);
  EXPECT_EQ(rounded(0x7f800000), 0x7f80);  // infinity
  EXPECT_EQ(rounded(0xff800000), 0xff80);
  EXPECT_EQ(rounded(0x7f7fffff), 0x7f80);  // the largest float rounds to infinity
  EXPECT_EQ(rounded(0x7f7f7fff), 0x7f7f);  // the last that does not
  EXPECT_EQ(rounded(0x7fc00000), 0x7fc0);
  EXPECT_EQ(rounded(0x7f800001), 0x7fc0);  // a NaN whose payload would be cut away stays a NaN
  EXPECT_EQ(rounded(0xffffffff), 0xffff);
  EXPECT_EQ(rounded(0x00000001), 0x0000);  // denormals round too
  EXPECT_EQ(rounded(0x00008000), 0x0000);
  EXPECT_EQ(rounded(0x00008001), 0x0001);
  EXPECT_EQ(rounded(0x007fffff), 0x0080);  // the largest denormal becomes the smallest normal
}

// Against the definition: of the two neighbours the nearer one, of equally near ones the even one.
TEST(Bf16, AgreesWithTheDefinition) {
  Rng rng(7, 1);
  for (int i = 0; i < 200'000; ++i) {
    const auto bits = static_cast<std::uint32_t>(rng.next());
    const float value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    const std::uint16_t low = static_cast<std::uint16_t>(bits >> 16),
                        high = static_cast<std::uint16_t>(low + 1);
    if ((high & 0x7f80) == 0x7f80) continue;  // the step to infinity, above
    const auto wide = [](std::uint16_t b) {
      return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16));
    };
    const double below = std::abs(static_cast<double>(value) - wide(low));
    const double above = std::abs(wide(high) - static_cast<double>(value));
    const std::uint16_t expected = below < above ? low : above < below ? high : low % 2 == 0 ? low : high;
    ASSERT_EQ(rounded(bits), expected) << std::hex << bits;
  }
}

TEST(Bf16, EveryValueSurvivesTheRoundTrip) {
  for (std::uint32_t b = 0; b <= 0xffff; ++b) {
    bf16 x;
    x.bits = static_cast<std::uint16_t>(b);
    const float f = static_cast<float>(x);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(bf16(f))));
    } else {
      ASSERT_EQ(bf16(f).bits, x.bits);
    }
  }
}

// Known answers of philox4x32-10. Source: Random123's kat_vectors.
TEST(Philox, KnownAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  const std::uint64_t ones = ~std::uint64_t{0};
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(ones, ones, ones), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 (digits of pi)
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RngStream, AtIsPureAndNextWalks) {
  Rng rng(3, 4);
  EXPECT_EQ(rng.next(), Rng(3, 4).at(0));
  EXPECT_EQ(rng.next(), Rng(3, 4).at(1));
  EXPECT_NE(Rng(3, 4).at(0), Rng(3, 5).at(0));
  EXPECT_NE(Rng(3, 4).at(0), Rng(4, 4).at(0));
}

TEST(RngStream, UniformBelowAndNormalHaveTheirMoments) {
  Rng rng(1, 0);
  const int n = 100'000;
  double sum = 0, squares = 0, uniform = 0;
  std::array<int, 7> counts{};
  for (int i = 0; i < n; ++i) {
    const double x = rng.normal();
    ASSERT_TRUE(std::isfinite(x));
    sum += x;
    squares += x * x;
    const double u = rng.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    uniform += u;
    ++counts.at(rng.below(7));
  }
  EXPECT_NEAR(sum / n, 0, 0.02);
  EXPECT_NEAR(squares / n, 1, 0.02);
  EXPECT_NEAR(uniform / n, 0.5, 0.005);
  for (const int c : counts) EXPECT_NEAR(c, n / 7.0, 600);
}

TEST(WorkspaceTest, ScopesReuseMemory) {
  Workspace w;
  void* first = nullptr;
  for (int step = 0; step < 3; ++step) {
    Workspace::Scope scope(w);
    const Out a = w.matrix(DType::f32, 10, 7);
    const Out b = w.matrix(DType::bf16, 3, 3);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.data) % 64, 0u);
    EXPECT_GE(static_cast<char*>(b.data), static_cast<char*>(a.data) + 10 * 7 * 4);
    if (step == 0) first = a.data;
    EXPECT_EQ(a.data, first);
  }
}

TEST(WorkspaceTest, InnerScopeLeavesTheOuterAlone) {
  Workspace w;
  Workspace::Scope outer(w);
  auto* kept = w.array<std::int32_t>(100);
  kept[99] = 42;
  void* inner_first = nullptr;
  {
    Workspace::Scope inner(w);
    inner_first = w.bytes(1000);
    w.bytes(std::size_t{40} << 20);  // larger than a block: a new one
  }
  const std::size_t held = w.capacity();
  EXPECT_EQ(w.bytes(1000), inner_first);
  w.bytes(std::size_t{40} << 20);
  EXPECT_EQ(w.capacity(), held);  // nothing new was allocated
  EXPECT_EQ(kept[99], 42);
}

TEST(TensorTest, RowsOfASparseOneTakeMemoryWhenTheyAreWritten) {
  constexpr std::int64_t kRows = 8192, kCols = 4096, kPage = 4096;  // 128 MiB
  const Tensor t = Tensor::sparse(DType::f32, kRows, kCols);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(t.buffer.data()) % 64, 0u);
  float sum = 0;
  for (std::int64_t r = 0; r < kRows; ++r) sum += t.view.row<float>(r)[r % kCols];  // reading takes none
  EXPECT_EQ(sum, 0.0f);
  const auto pages_written = [&] {  // the process' private pages
    std::ifstream file("/proc/self/smaps");
    std::int64_t kilobytes = 0;
    bool here = false;
    for (std::string line; std::getline(file, line);) {
      unsigned long begin = 0, end = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
        const auto at = reinterpret_cast<std::uintptr_t>(t.buffer.data());
        here = begin <= at && at < end;
      }
      if (here && line.starts_with("Private_Dirty:")) kilobytes += std::stol(line.substr(14));
    }
    return kilobytes * 1024 / kPage;
  };
  const std::int64_t before = pages_written();
  for (const std::int64_t r : {0, 1000, 8191}) t.view.row<float>(r)[7] = 1.0f;
  const std::int64_t written = pages_written() - before;
  EXPECT_GE(written, 3);
  EXPECT_LT(written, 100);
}

TEST(Names, Nearest) {
  const std::vector<std::string> known{"hidden_size", "vocab_size", "rope_theta", "lr"};
  EXPECT_EQ(nearest("hiden_size", known), "hidden_size");
  EXPECT_EQ(nearest("hidden_szie", known), "hidden_size");
  EXPECT_EQ(nearest("VOCAB_SIZE", known), "vocab_size");
  EXPECT_EQ(nearest("tokenizer", known), "");
  EXPECT_EQ(nearest("xy", known), "");  // both letters would change
  EXPECT_EQ(nearest(std::string(100'000, 'a'), known), "");
  EXPECT_EQ(did_you_mean("rope_teta", known), " (did you mean \"rope_theta\"?)");
  EXPECT_EQ(did_you_mean("zzz", known), "");
}

TEST(Utc, RoundTripAndRefusals) {
  EXPECT_EQ(utc_text(0), "1970-01-01T00:00:00Z");
  std::time_t t = 0;
  ASSERT_TRUE(parse_utc("2024-02-29T23:59:59Z", &t));
  EXPECT_EQ(t, 1709251199);
  for (const char* bad :
       {"", "2026-02-29T00:00:00Z", "2026-1-01T00:00:00Z", "2026-01-01 00:00:00Z", "2026-01-01T00:00:00",
        "2026-01-01T24:00:00Z", "2026-01-01T00:00:00Zx", "2026-01-01T00:00:00+0"}) {
    EXPECT_FALSE(parse_utc(bad, &t)) << bad;
  }
}

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(Trace, ReplacesATimelineAndNothingElse) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "core_trace.json";
  std::ofstream{path};  // an empty file is replaced, too
  for (int i = 0; i < 2; ++i) {
    TraceWriter trace(path);
    trace.counter("waiting", i);
    trace.finish();
    trace.counter("late", 1);
  }
  const std::string text = bytes_of(path);
  EXPECT_TRUE(text.starts_with("[\n{") && text.ends_with("}]\n")) << text;
  EXPECT_EQ(text.find("late"), std::string::npos);
  for (const char* other : {"[", "[\n  1\n]\n", "\n", "{\"name\": 1}"}) {
    std::ofstream(path) << other;
    try {
      TraceWriter trace(path);
      ADD_FAILURE() << "no error for " << other;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      EXPECT_NE(std::string(e.what()).find("expected a new file or an earlier timeline"), std::string::npos);
    }
    EXPECT_EQ(bytes_of(path), other);
  }
  std::filesystem::remove(path);
}

TEST(Trace, AFullDiskIsTold) {
  TraceWriter trace("/dev/full");
  try {
    trace.finish();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
    EXPECT_STREQ(e.what(), "/dev/full: could not be written in full");
  }
}

}  // namespace
}  // namespace stem
