// Products with served weights against the oracle, at every format and odd sizes, and their invariance.
#include "kernels/cpu/against_reference_test.h"
#include "kernels/cpu/families.h"
#include "kernels/cpu/gemm_amx.h"
#include "kernels/cpu/served_panels.h"

namespace stem {
namespace {

using testing::expect_close;
using testing::Matrix;
using testing::same_bits;
using testing::Threads;

constexpr WeightFormat kFormats[] = {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4,
                                     WeightFormat::int4_f16};

/// A random matrix stored in a format, and packed for both backends.
struct Weights {
  std::vector<std::byte> stored;
  Buffer cpu, reference;
  ServedMatrix on_cpu, on_reference;

  Weights(WeightFormat format, std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    const Matrix values = Matrix(DType::f32, rows, cols).randomise(seed, 0.2);
    const std::int64_t bytes = stored_row_bytes(format, cols);
    stored.resize(static_cast<std::size_t>(rows * bytes));
    for (std::int64_t r = 0; r < rows; ++r)
      store_row(format, {values.view.row<float>(r), static_cast<std::size_t>(cols)},
                stored.data() + r * bytes);
    const auto packed = [&](const Kernels& kernels, Buffer& memory) -> ServedMatrix {
      memory = Buffer(kernels.served.bytes(format, rows, cols));
      kernels.served.pack(memory.data(), {format, rows, cols, stored.data()});
      return {format, rows, cols, memory.data()};
    };
    on_cpu = packed(cpu_kernels(), cpu);
    on_reference = packed(reference_kernels(), reference);
  }
};

/// Values that bf16 holds exactly: the tile unit rounds x.
Matrix activations(WeightFormat format, std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Matrix x = Matrix(DType::f32, rows, cols, 3).randomise(seed, 2.0);
  for (std::int64_t r = 0; r < rows && format == WeightFormat::bf16; ++r) {
    for (std::int64_t c = 0; c < cols; ++c)
      x.view.row<float>(r)[c] = static_cast<float>(bf16(x.view.row<float>(r)[c]));
  }
  return x;
}

TEST(Served, LinearAgreesWithTheOracle) {
  for (const WeightFormat format : kFormats) {
    for (const auto& [rows, outs, cols] : {std::array<std::int64_t, 3>{1, 1, 1},
                                           {1, 16, 32},
                                           {1, 33, 31},
                                           {2, 50, 100},
                                           {3, 7, 33},
                                           {5, 48, 64},
                                           {16, 40, 172},
                                           {17, 65, 300},
                                           {70, 96, 290},
                                           {130, 20, 64}}) {
      for (const bool accumulate : {false, true}) {
        const Weights w(format, outs, cols, 1);
        const Matrix x = activations(format, rows, cols, 2);
        Matrix y = Matrix(DType::f32, rows, outs, 5).randomise(3);
        Matrix want = y.wide();
        reference_kernels().served.linear(want, x.wide(), w.on_reference, accumulate);
        cpu_kernels().served.linear(y, x, w.on_cpu, accumulate);
        SCOPED_TRACE(std::string(name_of(format)) + " " + std::to_string(rows) + " x " +
                     std::to_string(outs) + " x " + std::to_string(cols));
        expect_close(y, want, 3e-6, "y");
      }
    }
  }
}

TEST(Served, ARowHasTheSameBitsInAnyBatchWithAnyThreads) {
  for (const WeightFormat format : kFormats) {
    const Weights w(format, 83, 610, 4);
    const Matrix x = Matrix(DType::f32, 150, 610).randomise(5);
    Matrix all(DType::f32, 150, 83);
    cpu_kernels().served.linear(all, x, w.on_cpu, false);
    for (const int threads : {1, 3}) {
      const Threads set(threads);
      std::int64_t row = 0;
      for (const std::int64_t count : {1, 2, 3, 4, 6, 9, 16, 17, 40, 52}) {
        Matrix some(DType::f32, count, 83);
        cpu_kernels().served.linear(some, x.view.slice_rows(row, count), w.on_cpu, false);
        EXPECT_TRUE(same_bits(some, all.view.slice_rows(row, count)))
            << name_of(format) << ", " << count << " rows";
        row += count;
      }
      ASSERT_EQ(row, 150);
    }
  }
}

// What other CPUs run: plain vectors, held against the instructions of this one.
TEST(Served, VectorsAndSpecialInstructionsGiveTheSameBits) {
  if (!cpu::vnni_supported()) GTEST_SKIP() << "no AVX-512 VNNI here: the vectors are all there is";
  constexpr std::int64_t kRows = 40, kOuts = 50, kCols = 150;
  for (const WeightFormat format : {WeightFormat::int8, WeightFormat::int4, WeightFormat::int4_f16}) {
    const Weights w(format, kOuts, kCols, 11);
    const Matrix x = Matrix(DType::f32, kRows, kCols).randomise(12);
    const std::int64_t groups = weight_groups(kCols);
    std::vector<std::int8_t> q(static_cast<std::size_t>(64 * groups * kWeightGroup));
    std::vector<bf16> wide(q.size());
    std::vector<float> scale(static_cast<std::size_t>(64 * groups)), sum(scale.size());
    std::vector<std::int32_t> shift(scale.size());
    const auto product = [&](auto kernel, bool tiles) {
      const cpu::Activations a{
          kRows,      groups,      tiles ? nullptr : q.data(), tiles ? wide.data() : nullptr, scale.data(),
          sum.data(), shift.data()};
      Matrix y(DType::f32, kRows, kOuts);
      kernel({y, a, w.on_cpu, false}, x);
      return y;
    };
    const Matrix vectors = product(cpu::integer_product_vectors, false);
    EXPECT_TRUE(same_bits(vectors, product(cpu::integer_product_avx512, false))) << name_of(format);
    if (!cpu::amx_supported()) continue;
    EXPECT_TRUE(same_bits(vectors, product(cpu::integer_product_amx, true))) << name_of(format);
  }
}

TEST(Served, GatherReturnsWhatWasStored) {
  for (const WeightFormat format : kFormats) {
    const Weights w(format, 37, 75, 6);
    const std::vector<std::int32_t> ids{0, 36, 16, 15, 3};
    Matrix got(DType::f32, 5, 75), want(DType::f64, 5, 75);
    cpu_kernels().served.gather(got, w.on_cpu, ids);
    reference_kernels().served.gather(want, w.on_reference, ids);
    expect_close(got, want, 1e-7, "rows");
  }
}

TEST(Served, StoredTableRowsAreTheirValues) {
  constexpr std::int64_t kCols = 1100;  // several pieces, and a ragged end
  for (const WeightFormat format : {WeightFormat::int8, WeightFormat::int4}) {
    const Matrix plain = Matrix(DType::f32, 2, kCols).randomise(9),
                 gate = Matrix(DType::f32, 3, kCols).randomise(10, 3);
    const std::int64_t bytes = stored_row_bytes(format, kCols);
    std::vector<std::byte> stored(static_cast<std::size_t>(2 * bytes));
    Matrix values(DType::f32, 2, kCols);
    for (std::int64_t r = 0; r < 2; ++r) {
      const auto count = static_cast<std::size_t>(kCols);
      store_row(format, {plain.view.row<float>(r), count}, stored.data() + r * bytes);
      read_row(format, stored.data() + r * bytes, {values.view.row<float>(r), count});
    }
    const RowPointer small[] = {
        {stored.data() + bytes, 1.0f, DType::f32, format}, {}, {stored.data(), 2.0f, DType::f32, format}};
    const RowPointer large[] = {{values.view.row<float>(1)}, {}, {values.view.row<float>(0), 2.0f}};
    Matrix got(DType::f32, 3, kCols), want(DType::f32, 3, kCols), oracle(DType::f64, 3, kCols);
    cpu_kernels().glu.stem_forward(got, gate, {small, 3, kCols});
    cpu_kernels().glu.stem_forward(want, gate, {large, 3, kCols});
    reference_kernels().glu.stem_forward(oracle, gate.wide(), {small, 3, kCols});
    EXPECT_TRUE(same_bits(got, want)) << name_of(format);
    expect_close(got, oracle, 1e-6, "h");
  }
}

TEST(Served, InfinitiesAndNaNsAreNotHidden) {
  for (const WeightFormat format : kFormats) {
    const Weights w(format, 20, 64, 7);
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      Matrix x = Matrix(DType::f32, 2, 64).randomise(8);
      x.view.row<float>(1)[40] = bad;
      Matrix y(DType::f32, 2, 20);
      cpu_kernels().served.linear(y, x, w.on_cpu, false);
      EXPECT_TRUE(std::isfinite(y.view.row<float>(0)[3]));
      EXPECT_FALSE(std::isfinite(y.view.row<float>(1)[3])) << name_of(format);
    }
  }
}

}  // namespace
}  // namespace stem
