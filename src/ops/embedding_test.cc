#include "ops/embedding.h"

#include <gtest/gtest.h>

#include "kernels/reference/reference.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f64 = DType::f64;
constexpr std::int64_t kTokens = 7, kWidth = 5, kVocab = 6;

class EmbeddingTest : public ::testing::Test {
 protected:
  Rng rng{6, 1};
  Context ctx{.kernels = &reference_kernels()};
  TokenRows rows{{2, 4, 1, 2, 0, 4, 2}, kVocab, kWidth, f64, f64, rng};
  Tensor x{f64, kTokens, kWidth}, d_x = random_tensor(f64, kTokens, kWidth, rng);
};

TEST_F(EmbeddingTest, GathersScaledRowsOfAnyDtype) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const TokenRows scaled{{1, 0, 1}, 2, kWidth, dtype, f64, rng, 0, 0.5f};
    Tensor y(f64, 3, kWidth);
    embedding_forward(ctx, y, scaled.rows());
    for (std::int64_t d = 0; d < kWidth; ++d) {
      EXPECT_EQ(get(y, 0, d), 0.5 * get(scaled.table, 1, d));
      EXPECT_EQ(get(y, 1, d), 0.0);  // a null row
      EXPECT_EQ(get(y, 2, d), 0.5 * get(scaled.table, 1, d));
    }
  }
}

// ⟨gather(U), d_x⟩ = ⟨U, scatter(d_x)⟩ for every U and d_x: the backward is the adjoint of the forward.
TEST_F(EmbeddingTest, ScatterIsTheAdjointOfGather) {
  embedding_forward(ctx, x, rows.rows());
  embedding_backward(ctx, rows.gradients(), d_x);
  double right = 0.0;
  for (std::size_t r = 0; r < rows.distinct.size(); ++r) {
    right += inner(rows.table.view.slice_rows(rows.distinct[r], 1),
                   rows.grads.view.slice_rows(static_cast<std::int64_t>(r), 1));
  }
  EXPECT_NEAR(inner(x, d_x), right, 1e-12);
}

TEST_F(EmbeddingTest, DenseGradientAgreesWithCentralDifferencesAndWithTheSparseOne) {
  Tensor d_table(f64, kVocab, kWidth);
  embedding_backward_dense(ctx, d_table, rows.gradients(), rows.distinct, d_x);
  auto objective = [&] {
    embedding_forward(ctx, x, rows.rows());
    return inner(x, d_x);
  };
  EXPECT_LT(gradient_error(objective, rows.table, d_table), 1e-6);
  embedding_backward(ctx, rows.gradients(), d_x);
  for (std::size_t r = 0; r < rows.distinct.size(); ++r) {
    EXPECT_TRUE(same_bits(rows.grads.view.slice_rows(static_cast<std::int64_t>(r), 1),
                          d_table.view.slice_rows(rows.distinct[r], 1)));
  }
}

TEST_F(EmbeddingTest, GradientsAccumulate) {
  Tensor d_table(f64, kVocab, kWidth);
  for (int pass = 0; pass < 2; ++pass) {
    embedding_backward(ctx, rows.gradients(), d_x);
    embedding_backward_dense(ctx, d_table, rows.gradients(), rows.distinct, d_x);
  }
  // Token 0 stands at position 4 only.
  for (std::int64_t d = 0; d < kWidth; ++d) {
    EXPECT_EQ(get(rows.grads, 0, d), 2.0 * get(d_x, 4, d));
    EXPECT_EQ(get(d_table, 0, d), 2.0 * get(d_x, 4, d));
  }
}

TEST_F(EmbeddingTest, ATokenBeyondTheTableIsOurBug) {
  Tensor d_table(f64, kVocab - 2, kWidth);
  EXPECT_DEATH(embedding_backward_dense(ctx, d_table, rows.gradients(), rows.distinct, d_x), "token beyond");
}

}  // namespace
}  // namespace stem
