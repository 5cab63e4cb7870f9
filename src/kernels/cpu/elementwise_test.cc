// Norm, rope, gated products, embedding, loss and optimizer of the cpu backend against the oracle.
#include <algorithm>
#include <limits>

#include "kernels/cpu/against_reference_test.h"

namespace stem::testing {
namespace {

const Kernels& cpu = cpu_kernels();
const Kernels& oracle = reference_kernels();
constexpr DType kNarrow[] = {DType::f32, DType::bf16};
// Below, at and above a vector's width, ragged, and beyond one chunk of a table's row.
constexpr std::int64_t kWidths[] = {1, 7, 16, 33, 128, 700};

TEST(Norm, ForwardAndBackward) {
  for (const DType type : kNarrow) {
    for (const std::int64_t cols : kWidths) {
      const std::int64_t rows = 131;
      const Matrix x = Matrix(DType::f32, rows, cols, 3).randomise(1),
                   w = Matrix(DType::f32, 1, cols).randomise(2);
      Matrix y(type, rows, cols, 5), inv(DType::f32, 1, rows), want_y = y.wide(), want_inv = inv.wide();
      cpu.norm.rms_norm_forward(y, inv, x, w, 1e-5);
      oracle.norm.rms_norm_forward(want_y, want_inv, x, w, 1e-5);
      expect_close(y, want_y, 2e-6, "y");
      expect_close(inv, want_inv, 2e-6, "inv_rms");

      const Matrix d_y = Matrix(type, rows, cols, 1).randomise(3);
      Matrix d_x = Matrix(DType::f32, rows, cols, 2).randomise(4),
             d_w = Matrix(DType::f32, 1, cols).randomise(5);
      Matrix want_x = d_x.wide(), want_w = d_w.wide(), copy(type, rows, cols, 4);
      cpu.norm.rms_norm_backward(d_x, copy, d_w, d_y, x, w, inv);
      oracle.norm.rms_norm_backward(want_x, {}, want_w, d_y, x, w, inv);
      // One column: x̂ = ±1 and d_x cancels to rounding errors times inv_rms, which is large for small x.
      expect_close(d_x, want_x, cols == 1 ? 1e-3 : 1e-5, "d_x");
      expect_close(copy, want_x, cols == 1 ? 1e-3 : 1e-5, "copy of d_x");
      expect_close(d_w, want_w, 2e-5, "d_weight");
      cpu.norm.rms_norm_backward(d_x, {}, {}, d_y, x, w, inv);  // no d_weight wanted
    }
  }
}

TEST(Norm, WeightGradientDoesNotDependOnThreads) {
  const Matrix x = Matrix(DType::f32, 300, 48).randomise(1), w = Matrix(DType::f32, 1, 48).randomise(2);
  const Matrix inv = Matrix(DType::f32, 1, 300).randomise(3), d_y = Matrix(DType::f32, 300, 48).randomise(4);
  Matrix d_x(DType::f32, 300, 48), one(DType::f32, 1, 48), three(DType::f32, 1, 48);
  {
    const Threads threads(1);
    cpu.norm.rms_norm_backward(d_x, {}, one, d_y, x, w, inv);
  }
  const Threads threads(3);
  cpu.norm.rms_norm_backward(d_x, {}, three, d_y, x, w, inv);
  EXPECT_TRUE(same_bits(one, three));
}

TEST(Rope, BothDirections) {
  for (const DType type : kNarrow) {
    for (const std::int64_t width : {2, 10, 32, 80}) {
      const std::int64_t rows = 40, heads = 3;
      const Matrix angles = Matrix(DType::f32, 50, width).randomise(1);
      std::vector<std::int32_t> positions;
      for (std::int64_t n = 0; n < rows; ++n) positions.push_back(static_cast<std::int32_t>(n * 7 % 50));
      for (const bool inverse : {false, true}) {
        Matrix x = Matrix(type, rows, heads * width, 3).randomise(2), want = x.wide();
        cpu.rope.rope(x, heads, angles, positions, inverse);
        oracle.rope.rope(want, heads, angles, positions, inverse);
        expect_close(x, want, 2e-6, "x");
      }
    }
  }
}

/// N positions over a few tokens, with rows of every kind: f32, scaled bf16, null.
struct Table {
  static constexpr std::int32_t kTokens = 5;
  Matrix wide, narrow;
  std::vector<RowPointer> at;
  std::vector<std::int32_t> offsets, positions, tokens;
  RowPointers rows;

  Table(std::int64_t count, std::int64_t cols)
      : wide(DType::f32, kTokens, cols, 3), narrow(DType::bf16, kTokens, cols, 1) {
    wide.randomise(21), narrow.randomise(22);
    std::vector<std::vector<std::int32_t>> where(kTokens);
    for (std::int64_t n = 0; n < count; ++n) {
      const auto t = static_cast<std::int32_t>(n * n % kTokens);
      where[static_cast<std::size_t>(t)].push_back(static_cast<std::int32_t>(n));
      if (t == 0) at.push_back({});
      if (t == 1) at.push_back({narrow.view.row<bf16>(t), 0.37f, DType::bf16});
      if (t == 4) at.push_back({wide.view.row<float>(t), -1.5f, DType::f32});
    }
    offsets.push_back(0);
    for (std::int32_t t = 0; t < kTokens; ++t) {
      const auto& list = where[static_cast<std::size_t>(t)];
      if (list.empty()) continue;
      tokens.push_back(t);
      positions.insert(positions.end(), list.begin(), list.end());
      offsets.push_back(static_cast<std::int32_t>(positions.size()));
    }
    rows = {at.data(), count, cols};
  }
  RowGradients gradients(const Matrix& grads) const {
    return {static_cast<std::int64_t>(tokens.size()),
            grads.view.cols,
            offsets.data(),
            positions.data(),
            grads.view.data,
            grads.view.dtype,
            grads.view.stride};
  }
};

TEST(Glu, EveryVariantForward) {
  for (const DType type : kNarrow) {
    for (const std::int64_t cols : kWidths) {
      const std::int64_t rows = 29;
      const Table table(rows, cols);
      const Matrix gate = Matrix(type, rows, cols, 3).randomise(1, 20),
                   up = Matrix(type, rows, cols, 1).randomise(2);
      const auto check = [&](const char* name, auto call) {
        Matrix h(type, rows, cols, 2), want = h.wide();
        call(cpu.glu, h.view);
        call(oracle.glu, want.view);
        expect_close(h, want, 2e-6, name);
      };
      check("swiglu", [&](const GluKernels& k, Out h) { k.swiglu_forward(h, gate, up); });
      check("stem", [&](const GluKernels& k, Out h) { k.stem_forward(h, gate, table.rows); });
      check("stem_gate", [&](const GluKernels& k, Out h) { k.stem_gate_forward(h, up, table.rows); });
      check("stem_additive",
            [&](const GluKernels& k, Out h) { k.stem_additive_forward(h, gate, up, table.rows); });
    }
  }
}

TEST(Glu, EveryVariantBackward) {
  for (const DType type : kNarrow) {
    for (const std::int64_t cols : kWidths) {
      const std::int64_t rows = 29;
      const Table table(rows, cols);
      const Matrix gate = Matrix(type, rows, cols, 3).randomise(1, 8),
                   up = Matrix(type, rows, cols, 1).randomise(2);
      const Matrix d_h = Matrix(type, rows, cols, 2).randomise(3);
      const auto check = [&](const char* name, auto call) {
        Matrix d_gate(type, rows, cols, 2), d_up(type, rows, cols, 4), d_rows(DType::f32, 3, cols, 5);
        d_rows.randomise(9);
        Matrix want_gate = d_gate.wide(), want_up = d_up.wide(), want_rows = d_rows.wide();
        call(cpu.glu, d_gate.view, d_up.view, table.gradients(d_rows));
        call(oracle.glu, want_gate.view, want_up.view, table.gradients(want_rows));
        SCOPED_TRACE(name);
        expect_close(d_gate, want_gate, 5e-6, "d_gate");
        expect_close(d_up, want_up, 5e-6, "d_up");
        expect_close(d_rows, want_rows, 2e-5, "d_rows");
      };
      check("swiglu", [&](const GluKernels& k, Out d_gate, Out d_up, const RowGradients&) {
        k.swiglu_backward(d_gate, d_up, d_h, gate, up);
      });
      check("stem", [&](const GluKernels& k, Out d_gate, Out, const RowGradients& d_rows) {
        k.stem_backward(d_gate, d_rows, d_h, gate, table.rows);
      });
      check("stem_gate", [&](const GluKernels& k, Out, Out d_up, const RowGradients& d_rows) {
        k.stem_gate_backward(d_up, d_rows, d_h, up, table.rows);
      });
      check("stem_additive", [&](const GluKernels& k, Out d_gate, Out d_up, const RowGradients& d_rows) {
        k.stem_additive_backward(d_gate, d_up, d_rows, d_h, gate, up, table.rows);
      });
    }
  }
}

TEST(Glu, BackwardInPlaceAndWithoutAllGroups) {
  const std::int64_t rows = 29, cols = 40;
  const Table table(rows, cols);
  const Matrix gate = Matrix(DType::f32, rows, cols).randomise(1),
               up = Matrix(DType::f32, rows, cols).randomise(2);
  const Matrix d_h = Matrix(DType::f32, rows, cols).randomise(3);
  Matrix in_gate = Matrix(DType::f32, rows, cols).randomise(1),
         in_up = Matrix(DType::f32, rows, cols).randomise(2);
  Matrix d_gate(DType::f64, rows, cols), d_up(DType::f64, rows, cols), d_rows(DType::f32, 3, cols);
  Matrix want_rows = d_rows.wide();
  RowGradients some = table.gradients(d_rows), want_some = table.gradients(want_rows);
  some.distinct = want_some.distinct = 2;  // the last token's row is frozen
  cpu.glu.stem_additive_backward(in_gate, in_up, some, d_h, in_gate, in_up, table.rows);
  oracle.glu.stem_additive_backward(d_gate, d_up, want_some, d_h, gate, up, table.rows);
  expect_close(in_gate, d_gate, 5e-6, "d_gate");
  expect_close(in_up, d_up, 5e-6, "d_up");
  expect_close(d_rows, want_rows, 2e-5, "d_rows");
}

TEST(Glu, ExtremeGatesStayFinite) {
  const float huge[] = {-1e30f, -100.0f, -88.5f, 0.0f, 88.5f, 100.0f, 1e30f};
  Matrix gate(DType::f32, 1, 7), up(DType::f32, 1, 7), h(DType::f32, 1, 7), d_gate(DType::f32, 1, 7);
  for (std::int64_t i = 0; i < 7; ++i) set_at(gate, 0, i, huge[i]), set_at(up, 0, i, 1.0);
  cpu.glu.swiglu_forward(h, gate, up);
  cpu.glu.swiglu_backward(d_gate, gate, up, gate, up);
  for (std::int64_t i = 0; i < 7; ++i) {
    EXPECT_TRUE(std::isfinite(value_at(h, 0, i))) << huge[i];
    EXPECT_NEAR(value_at(h, 0, i), std::max(0.0f, huge[i]), 1e-6 * std::abs(huge[i]) + 1e-30);
  }
  set_at(h, 0, 0, 0.0);
  Matrix bad(DType::f32, 1, 7);
  set_at(bad, 0, 3, std::numeric_limits<double>::quiet_NaN());
  cpu.glu.swiglu_forward(h, bad, up);
  EXPECT_TRUE(std::isnan(value_at(h, 0, 3)));
}

TEST(Embedding, GatherAndScatter) {
  for (const std::int64_t cols : kWidths) {
    const Table table(29, cols);
    Matrix x(DType::f32, 29, cols, 2), want = x.wide();
    cpu.embedding.gather(x, table.rows);
    oracle.embedding.gather(want, table.rows);
    expect_close(x, want, 1e-7, "x");

    const Matrix d_x = Matrix(DType::f32, 29, cols, 2).randomise(4);
    Matrix grads(DType::f32, 3, cols, 3), dense(DType::f32, Table::kTokens, cols, 3);
    grads.randomise(5), dense.randomise(6);
    Matrix want_grads = grads.wide(), want_dense = dense.wide();
    cpu.embedding.scatter(table.gradients(grads), d_x);
    oracle.embedding.scatter(table.gradients(want_grads), d_x);
    expect_close(grads, want_grads, 2e-6, "d_rows");
    cpu.embedding.scatter_dense(dense, table.gradients(grads), table.tokens, d_x);
    oracle.embedding.scatter_dense(want_dense, table.gradients(want_grads), table.tokens, d_x);
    expect_close(dense, want_dense, 2e-6, "d_table");
  }
}

TEST(Loss, ValueAndGradient) {
  for (const DType type : kNarrow) {
    for (const std::int64_t vocabulary : {2, 17, 64, 1003}) {
      const std::int64_t rows = 13;
      const Matrix logits = Matrix(DType::f32, rows, vocabulary, 3).randomise(1, 30);
      std::vector<std::int32_t> targets;
      std::vector<float> weights;
      for (std::int64_t c = 0; c < rows; ++c) {
        targets.push_back(c == 4 ? -1 : static_cast<std::int32_t>(c * 31 % vocabulary));
        weights.push_back(0.25f * static_cast<float>(c));
      }
      Matrix d(type, rows, vocabulary, 5), loss(DType::f32, 1, rows), want_d = d.wide(), want = loss.wide();
      cpu.loss.softmax_cross_entropy(d, loss, logits, targets, weights);
      oracle.loss.softmax_cross_entropy(want_d, want, logits, targets, weights);
      expect_close(loss, want, 2e-6, "loss");
      expect_close(d, want_d, 2e-6, "d_logits");
      Matrix alone(DType::f32, 1, rows);
      cpu.loss.softmax_cross_entropy({}, alone, logits, targets, {});
      EXPECT_TRUE(same_bits(alone, loss));
      Matrix in_place = Matrix(DType::f32, rows, vocabulary, 3).randomise(1, 30);
      cpu.loss.softmax_cross_entropy(in_place, alone, in_place, targets, weights);
      expect_close(in_place, want_d, 2e-6, "d_logits in place");
    }
  }
}

TEST(Optimizer, AdamWWithCopy) {
  for (const std::int64_t count : {1, 15, 64, 10007}) {
    const AdamW a{.lr = 0.01f, .decay = 0.1f, .step = 3, .grad_scale = 0.5f};
    Matrix w = Matrix(DType::f32, 1, count).randomise(1), m = Matrix(DType::f32, 1, count).randomise(2);
    Matrix v = Matrix(DType::f32, 1, count).randomise(3), copy(DType::bf16, 1, count);
    for (std::int64_t i = 0; i < count; ++i) set_at(v, 0, i, std::abs(value_at(v, 0, i)) + 0.01);
    const Matrix g = Matrix(DType::f32, 1, count).randomise(4);
    Matrix want_w = w.wide(), want_m = m.wide(), want_v = v.wide();
    cpu.optimizer.adamw(w, m, v, g, copy, a);
    oracle.optimizer.adamw(want_w, want_m, want_v, g, {}, a);
    expect_close(w, want_w, 1e-6, "w");
    expect_close(m, want_m, 1e-6, "m");
    expect_close(v, want_v, 1e-6, "v");
    for (std::int64_t i = 0; i < count; ++i) {
      ASSERT_EQ(copy.view.row<bf16>(0)[i].bits, bf16(w.view.row<float>(0)[i]).bits);
    }
    cpu.optimizer.adamw(w, m, v, g, {}, a);  // no copy wanted
  }
}

TEST(Optimizer, AdamWRows) {
  const AdamW a{.lr = 0.01f, .decay = 0.1f, .step = 2};
  const std::vector<std::int32_t> ids{4, 0, 7};
  for (const std::int64_t cols : kWidths) {
    Matrix w = Matrix(DType::f32, 9, cols, 1).randomise(1), m(DType::f32, 9, cols, 2),
           v(DType::f32, 9, cols, 3);
    const Matrix g = Matrix(DType::f32, 3, cols, 4).randomise(4);
    Matrix want_w = w.wide(), want_m = m.wide(), want_v = v.wide();
    cpu.optimizer.adamw_rows(w, m, v, g, ids, a);
    oracle.optimizer.adamw_rows(want_w, want_m, want_v, g, ids, a);
    expect_close(w, want_w, 2e-6, "w");
    expect_close(m, want_m, 1e-6, "m");
    expect_close(v, want_v, 1e-6, "v");
  }
}

TEST(Optimizer, SquaredNormInDoubleWithFixedOrder) {
  for (const std::int64_t gap : {0, 3}) {
    const Matrix g = Matrix(DType::f32, 37, 1001, gap).randomise(1);
    const double want = oracle.optimizer.squared_norm(g);
    const Threads one(1);
    const double single = cpu.optimizer.squared_norm(g);
    EXPECT_NEAR(single, want, 1e-12 * want);
    const Threads three(3);
    EXPECT_EQ(single, cpu.optimizer.squared_norm(g));
  }
}

TEST(Optimizer, ConvertRoundsAsTheScalarType) {
  // Every upper half with lower halves around the tie, infinities and NaNs included.
  std::vector<float> from;
  for (std::uint32_t upper = 0; upper < 0x10000u; upper += 3) {
    for (const std::uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const bool denormal = (upper & 0x7f80u) == 0;
      if (!denormal) from.push_back(std::bit_cast<float>((upper << 16) | lower));
    }
  }
  const auto count = static_cast<std::int64_t>(from.size());
  std::vector<bf16> to(from.size());
  cpu.optimizer.convert(matrix(to.data(), 1, count), matrix(from.data(), 1, count));
  for (std::size_t i = 0; i < from.size(); ++i) ASSERT_EQ(to[i].bits, bf16(from[i]).bits) << from[i];
  std::vector<float> back(from.size());
  cpu.optimizer.convert(matrix(back.data(), 1, count), matrix(to.data(), 1, count));
  for (std::size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(back[i]), static_cast<std::uint32_t>(to[i].bits) << 16);
  }
  const Matrix strided = Matrix(DType::f32, 7, 21, 3).randomise(1);
  Matrix out(DType::bf16, 7, 21, 2);
  cpu.optimizer.convert(out, strided);
  expect_close(out, strided.wide(), 0, "strided");
}

}  // namespace
}  // namespace stem::testing
