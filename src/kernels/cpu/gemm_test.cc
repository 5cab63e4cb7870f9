// Matrix products of the cpu backend against the oracle, and the bits of the batch-invariant one.
#include "kernels/cpu/against_reference_test.h"

namespace stem::testing {
namespace {

struct Shape {
  std::int64_t m, n, k;
};
constexpr Shape kShapes[] = {{1, 1, 1}, {3, 5, 7}, {1, 33, 65}, {64, 48, 32}, {37, 19, 130}, {130, 1, 17}};

TEST(Gemm, EveryTransposeTypeAndStride) {
  for (const Shape& s : kShapes) {
    for (int flags = 0; flags < 32; ++flags) {
      const bool ta = flags & 1, tb = flags & 2, accumulate = flags & 4;
      const DType type = flags & 8 ? DType::bf16 : DType::f32, type_c = flags & 16 ? type : DType::f32;
      const std::int64_t gap = flags % 3;
      Matrix a(type, ta ? s.k : s.m, ta ? s.m : s.k, gap), b(type, tb ? s.n : s.k, tb ? s.k : s.n, 2 * gap);
      Matrix c(type_c, s.m, s.n, gap);
      a.randomise(1), b.randomise(2), c.randomise(3);
      Matrix want = c.wide();
      reference_kernels().gemm.gemm(want, a, ta, b, tb, accumulate ? In(want) : In{});
      cpu_kernels().gemm.gemm(c, a, ta, b, tb, accumulate ? In(c) : In{});
      SCOPED_TRACE(::testing::Message() << s.m << "x" << s.n << "x" << s.k << " flags " << flags);
      expect_close(c, want, 2e-6 * std::sqrt(static_cast<double>(s.k)), "c");
    }
  }
}

// Above 256 k, 1,024 columns and 64 rows a product is cut into blocks.
TEST(Gemm, ProductsOfSeveralBlocks) {
  for (const Shape& s : {Shape{70, 40, 700}, Shape{300, 1100, 96}, Shape{97, 1030, 520}}) {
    for (int flags = 0; flags < 16; ++flags) {
      const bool ta = flags & 1, tb = flags & 2, accumulate = flags & 4;
      const DType type_c = flags & 8 ? DType::bf16 : DType::f32;
      const Matrix a = Matrix(DType::bf16, ta ? s.k : s.m, ta ? s.m : s.k).randomise(1),
                   b = Matrix(DType::bf16, tb ? s.n : s.k, tb ? s.k : s.n).randomise(2);
      Matrix c = Matrix(type_c, s.m, s.n, 3).randomise(3);
      Matrix want = c.wide();
      reference_kernels().gemm.gemm(want, a, ta, b, tb, accumulate ? In(want) : In{});
      cpu_kernels().gemm.gemm(c, a, ta, b, tb, accumulate ? In(c) : In{});
      SCOPED_TRACE(::testing::Message() << s.m << "x" << s.n << "x" << s.k << " flags " << flags);
      expect_close(c, want, 2e-6 * std::sqrt(static_cast<double>(s.k)), "c");
    }
  }
}

TEST(Gemm, GroupsGiveTheSameBits) {
  const GemmKernels& gemm = cpu_kernels().gemm;
  for (const DType type : {DType::bf16, DType::f32}) {
    const Matrix x = Matrix(type, 300, 96).randomise(1), w = Matrix(type, 64, 96, 2).randomise(2),
                 d_y = Matrix(type, 300, 64).randomise(3);
    Matrix y(type, 300, 64), d_x(type, 300, 96), want_y(type, 300, 64), want_x(type, 300, 96);
    Matrix d_w = Matrix(DType::f32, 64, 96).randomise(4), want_w = Matrix(DType::f32, 64, 96).randomise(4);
    const GemmCall calls[] = {
        {y, x, false, w, true, {}}, {d_x, d_y, false, w, false, {}}, {d_w, d_y, true, x, false, d_w}};
    gemm.gemm_group(std::span<const GemmCall>(calls));
    gemm.gemm(want_y, x, false, w, true, {});
    gemm.gemm(want_x, d_y, false, w, false, {});
    gemm.gemm(want_w, d_y, true, x, false, want_w);
    EXPECT_TRUE(same_bits(y, want_y) && same_bits(d_x, want_x) && same_bits(d_w, want_w));
  }
}

TEST(Gemm, PackedGivesTheSameBits) {
  const GemmKernels& gemm = cpu_kernels().gemm;
  for (const bool tb : {false, true}) {
    const Matrix a = Matrix(DType::bf16, 75, 290).randomise(1),
                 b = Matrix(DType::bf16, tb ? 50 : 290, tb ? 290 : 50, 2).randomise(2);
    const std::size_t bytes = gemm.packed_bytes(b, tb);
    if (bytes == 0) GTEST_SKIP() << "this machine has no packed product";
    const Buffer packed(bytes);
    gemm.pack(packed.data(), b, tb);
    Matrix c(DType::f32, 75, 50), want(DType::f32, 75, 50);
    gemm.gemm_packed(c, a, false, b, tb, packed.data(), {});
    gemm.gemm(want, a, false, b, tb, {});
    EXPECT_TRUE(same_bits(c, want));
  }
}

TEST(Gemm, AddressesMayChangeBetweenCallsOfOneShape) {
  const Matrix w = Matrix(DType::f32, 8, 8).randomise(1);
  for (std::uint64_t i = 0; i < 3; ++i) {
    const Matrix x = Matrix(DType::f32, 4, 8).randomise(10 + i);
    Matrix y(DType::f32, 4, 8), want(DType::f64, 4, 8);
    reference_kernels().gemm.gemm(want, x, false, w, true, {});
    cpu_kernels().gemm.gemm(y, x, false, w, true, {});
    expect_close(y, want, 1e-5, "y");
  }
}

TEST(LinearInvariant, EveryTypeAndStride) {
  for (const Shape& s : kShapes) {
    for (int flags = 0; flags < 16; ++flags) {
      const auto type = [flags](int bit) { return flags & bit ? DType::bf16 : DType::f32; };
      const bool accumulate = flags & 8;
      const std::int64_t gap = flags % 3;
      Matrix x(type(1), s.m, s.k, gap), w(type(2), s.n, s.k, gap), y(type(4), s.m, s.n, gap);
      x.randomise(1), w.randomise(2), y.randomise(3);
      Matrix want = y.wide();
      reference_kernels().gemm.linear_invariant(want, x, w, accumulate);
      cpu_kernels().gemm.linear_invariant(y, x, w, accumulate);
      SCOPED_TRACE(::testing::Message() << s.m << "x" << s.n << "x" << s.k << " flags " << flags);
      expect_close(y, want, 2e-6 * std::sqrt(static_cast<double>(s.k)), "y");
    }
  }
}

TEST(LinearInvariant, BitsDoNotDependOnRowsOrThreads) {
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const std::int64_t inner : {40, 517, 4096}) {
      const std::int64_t rows = 71, outs = 67;
      const Matrix x = Matrix(DType::f32, rows, inner).randomise(1),
                   w = Matrix(type, outs, inner).randomise(2);
      Matrix all(DType::f32, rows, outs);
      {
        const Threads two(2);
        cpu_kernels().gemm.linear_invariant(all, x, w, false);
      }
      const Threads one(1);
      std::int64_t row = 0;
      for (std::int64_t count = 1; row < rows; row += count, ++count) {
        const std::int64_t taken = std::min(count, rows - row);
        Matrix some(DType::f32, taken, outs);
        cpu_kernels().gemm.linear_invariant(some, x.view.slice_rows(row, taken), w, false);
        ASSERT_TRUE(same_bits(some, all.view.slice_rows(row, taken))) << "rows " << row << " + " << taken;
      }
    }
  }
}

TEST(Gemm, CalibrationFindsTheMatrixUnit) {
  // AMX multiplies bf16 several times as fast as AVX-512 does f32; elsewhere either answer may be right.
  const bool faster = bf16_gemm_is_faster(1024, 1024, 1024);
  const bool has_amx = cpu_description().find("amx") != std::string::npos;
  const bool has_bf16 = cpu_description().find("bf16") != std::string::npos;
  EXPECT_TRUE(faster || !has_amx);
  EXPECT_TRUE(has_bf16 || !faster);
}

}  // namespace
}  // namespace stem::testing
