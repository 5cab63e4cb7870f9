#include "ops/loss.h"

#include <gtest/gtest.h>

#include "kernels/cpu/cpu.h"
#include "kernels/reference/reference.h"
#include "ops/linear.h"
#include "ops/numeric_check.h"

namespace stem {
namespace {

constexpr DType f64 = DType::f64;

class LossTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kRows = 5, kWidth = 3, kVocab = 11;
  Rng rng{7, 1};
  Workspace workspace;
  Context ctx{.kernels = &reference_kernels(), .workspace = &workspace};
  Tensor x = random_tensor(f64, kRows, kWidth, rng), head = random_tensor(f64, kVocab, kWidth, rng);
  Tensor loss{f64, 1, kRows};
  std::vector<std::int32_t> targets{3, -1, 10, 0, 3};
  std::vector<float> weights{0.5f, 1.0f, 0.25f, 2.0f, 0.0f};

  double objective() {
    lm_head_loss_forward(ctx, loss, x, {head}, targets);
    double sum = 0.0;
    for (std::int64_t n = 0; n < kRows; ++n) {
      sum += static_cast<double>(weights[static_cast<std::size_t>(n)]) * get(loss, 0, n);
    }
    return sum;
  }
};

TEST_F(LossTest, IsTheNegativeLogProbabilityOfTheTarget) {
  lm_head_loss_forward(ctx, loss, x, {head}, targets);
  Tensor logits(f64, kRows, kVocab);
  linear_forward(ctx, logits, x, {head});
  for (std::int64_t n = 0; n < kRows; ++n) {
    const std::int32_t target = targets[static_cast<std::size_t>(n)];
    double sum = 0.0;
    for (std::int64_t v = 0; v < kVocab; ++v) sum += std::exp(get(logits, n, v));
    const double expected = target < 0 ? 0.0 : std::log(sum) - get(logits, n, target);
    EXPECT_NEAR(get(loss, 0, n), expected, 1e-14) << n;
  }
}

TEST_F(LossTest, GradientsAgreeWithCentralDifferences) {
  Tensor d_x = random_tensor(f64, kRows, kWidth, rng), d_head(f64, kVocab, kWidth);
  lm_head_loss_forward_backward(ctx, loss, d_x, d_head, x, {head}, targets, weights);
  EXPECT_EQ(max_abs(d_x.view.slice_rows(1, 1)), 0.0);  // ignored target
  EXPECT_EQ(max_abs(d_x.view.slice_rows(4, 1)), 0.0);  // weight 0
  EXPECT_LT(gradient_error([&] { return objective(); }, x, d_x), 1e-6);
  EXPECT_LT(gradient_error([&] { return objective(); }, head, d_head), 1e-6);
}

TEST_F(LossTest, BothPassesGiveTheSameLoss) {
  lm_head_loss_forward(ctx, loss, x, {head}, targets);
  Tensor again(f64, 1, kRows), d_x(f64, kRows, kWidth);
  lm_head_loss_forward_backward(ctx, again, d_x, Out{}, x, {head}, targets, weights);
  EXPECT_TRUE(same_bits(again, loss));
  EXPECT_GT(max_abs(d_x), 0.0);
}

TEST_F(LossTest, HeadGradientAccumulates) {
  Tensor d_x(f64, kRows, kWidth), d_head(f64, kVocab, kWidth);
  lm_head_loss_forward_backward(ctx, loss, d_x, d_head, x, {head}, targets, weights);
  const Tensor once = copy_of(d_head);
  lm_head_loss_forward_backward(ctx, loss, d_x, d_head, x, {head}, targets, weights);
  for (std::int64_t v = 0; v < kVocab; ++v) EXPECT_EQ(get(d_head, v, 1), 2.0 * get(once, v, 1));
}

TEST_F(LossTest, LargeLogitsStayFinite) {
  fill_random(x, rng, 1e3);
  Tensor d_x(f64, kRows, kWidth), d_head(f64, kVocab, kWidth);
  lm_head_loss_forward_backward(ctx, loss, d_x, d_head, x, {head}, targets, weights);
  EXPECT_TRUE(std::isfinite(max_abs(loss)) && std::isfinite(max_abs(d_x)) && std::isfinite(max_abs(d_head)));
}

// The teacher is wider than the student; x and head as in LossTest.
class SoftTargetsTest : public LossTest {
 protected:
  static constexpr std::int64_t kTeacherWidth = 4;
  Tensor soft_x = random_tensor(f64, kRows, kTeacherWidth, rng),
         soft_head = random_tensor(f64, kVocab, kTeacherWidth, rng);
  SoftTargets soft{soft_x, {soft_head}};
  Tensor d_x = random_tensor(f64, kRows, kWidth, rng), d_head{f64, kVocab, kWidth};

  void run() { lm_head_loss_forward_backward(ctx, loss, d_x, d_head, x, {head}, targets, weights, soft); }
  double soft_objective() {
    Tensor unused(f64, kRows, kWidth);
    lm_head_loss_forward_backward(ctx, loss, unused, Out{}, x, {head}, targets, weights, soft);
    double sum = 0.0;
    for (std::int64_t n = 0; n < kRows; ++n)
      sum += static_cast<double>(weights[static_cast<std::size_t>(n)]) * get(loss, 0, n);
    return sum;
  }
};

TEST_F(SoftTargetsTest, LossIsTheDivergenceFromTheTeacher) {
  run();
  Tensor logits(f64, kRows, kVocab), teacher(f64, kRows, kVocab);
  linear_forward(ctx, logits, x, {head});
  linear_forward(ctx, teacher, soft_x, {soft_head});
  for (std::int64_t n = 0; n < kRows; ++n) {
    double sum_p = 0.0, sum_q = 0.0, expected = 0.0;
    for (std::int64_t v = 0; v < kVocab; ++v) {
      sum_p += std::exp(get(teacher, n, v));
      sum_q += std::exp(get(logits, n, v));
    }
    for (std::int64_t v = 0; v < kVocab; ++v) {
      const double p = std::exp(get(teacher, n, v)) / sum_p, q = std::exp(get(logits, n, v)) / sum_q;
      expected += p * std::log(p / q);
    }
    if (targets[static_cast<std::size_t>(n)] < 0) expected = 0.0;
    EXPECT_NEAR(get(loss, 0, n), expected, 1e-13) << n;
  }
}

TEST_F(SoftTargetsTest, GradientsAgreeWithCentralDifferences) {
  run();
  EXPECT_EQ(max_abs(d_x.view.slice_rows(1, 1)), 0.0);  // ignored target
  EXPECT_EQ(max_abs(d_x.view.slice_rows(4, 1)), 0.0);  // weight 0
  EXPECT_LT(gradient_error([&] { return soft_objective(); }, x, d_x), 1e-6);
  EXPECT_LT(gradient_error([&] { return soft_objective(); }, head, d_head), 1e-6);
}

TEST_F(SoftTargetsTest, WhichTokenIsRightDoesNotMatter) {
  run();
  const Tensor first = copy_of(d_x);
  targets = {0, -1, 1, 2, 3};
  run();
  EXPECT_TRUE(same_bits(d_x, first));
}

TEST_F(SoftTargetsTest, AStudentThatIsItsTeacherHasNothingToLearn) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Context cpu{.kernels = &cpu_kernels(), .workspace = &workspace};
    const Tensor own_x = random_tensor(dtype, kRows, kWidth, rng, 3.0),
                 own_head = random_tensor(dtype, kVocab, kWidth, rng, 3.0);
    Tensor own_loss(DType::f32, 1, kRows), own_d_x = random_tensor(dtype, kRows, kWidth, rng);
    lm_head_loss_forward_backward(cpu, own_loss, own_d_x, Out{}, own_x, {own_head}, targets, weights,
                                  {own_x, {own_head}});
    EXPECT_EQ(max_abs(own_loss), 0.0);
    EXPECT_EQ(max_abs(own_d_x), 0.0);
  }
}

TEST_F(SoftTargetsTest, LargeLogitsStayFinite) {
  fill_random(x, rng, 1e3);
  fill_random(soft_x, rng, 1e3);
  run();
  EXPECT_TRUE(std::isfinite(max_abs(loss)) && std::isfinite(max_abs(d_x)) && std::isfinite(max_abs(d_head)));
}

TEST_F(SoftTargetsTest, ChunksDoNotShow) {
  const std::int64_t rows = 70, vocab = 140000, width = 2;
  ASSERT_EQ(lm_head_chunk_rows(vocab, f64), 32);
  const Tensor many = random_tensor(f64, rows, width, rng), wide_head = random_tensor(f64, vocab, width, rng),
               teacher = random_tensor(f64, rows, 1, rng), teacher_head = random_tensor(f64, vocab, 1, rng);
  std::vector<std::int32_t> ids;
  std::vector<float> scales;
  for (std::int32_t n = 0; n < rows; ++n) {
    ids.push_back(n % 5 == 0 ? -1 : 0);
    scales.push_back(0.1f * static_cast<float>(n));
  }
  Tensor losses(f64, 1, rows), one_loss(f64, 1, 1), gradient(f64, rows, width), one_gradient(f64, 1, width);
  lm_head_loss_forward_backward(ctx, losses, gradient, Out{}, many, {wide_head}, ids, scales,
                                {teacher, {teacher_head}});
  for (const std::int64_t n : {0, 1, 31, 32, 63, 64, 69}) {
    const auto i = static_cast<std::size_t>(n);
    lm_head_loss_forward_backward(ctx, one_loss, one_gradient, Out{}, many.view.slice_rows(n, 1), {wide_head},
                                  std::span(ids).subspan(i, 1), std::span(scales).subspan(i, 1),
                                  {teacher.view.slice_rows(n, 1), {teacher_head}});
    EXPECT_EQ(get(losses, 0, n), get(one_loss, 0, 0)) << n;
    EXPECT_TRUE(same_bits(gradient.view.slice_rows(n, 1), one_gradient)) << n;
  }
}

TEST_F(SoftTargetsTest, ATeacherOfAnotherVocabularyIsOurBug) {
  soft.head.values.rows -= 1;
  EXPECT_DEATH(run(), "another vocabulary");
}

TEST(LossChunkTest, AChunkIsAbout32MiBAndAtLeast32Rows) {
  EXPECT_EQ(lm_head_chunk_rows(32768, DType::f32), 256);
  EXPECT_EQ(lm_head_chunk_rows(32768, DType::f64), 128);
  EXPECT_EQ(lm_head_chunk_rows(151936, DType::f32), 55);
  EXPECT_EQ(lm_head_chunk_rows(256, DType::f32), 32768);
}

// Three chunks of rows give what the rows give one by one, and hold one chunk of logits at a time.
TEST_F(LossTest, ChunksDoNotShow) {
  const std::int64_t rows = 70, vocab = 140000, width = 2;
  ASSERT_EQ(lm_head_chunk_rows(vocab, f64), 32);
  const Tensor many = random_tensor(f64, rows, width, rng), wide_head = random_tensor(f64, vocab, width, rng);
  std::vector<std::int32_t> ids;
  std::vector<float> scales;
  for (std::int32_t n = 0; n < rows; ++n) {
    ids.push_back(n % 5 == 0 ? -1 : n * 571);
    scales.push_back(0.1f * static_cast<float>(n));
  }
  Tensor losses(f64, 1, rows), one_loss(f64, 1, rows), forward_loss(f64, 1, rows), d_x(f64, rows, width),
      one_d_x(f64, rows, width), d_head(f64, vocab, width), one_d_head(f64, vocab, width);
  lm_head_loss_forward(ctx, forward_loss, many, {wide_head}, ids);
  lm_head_loss_forward_backward(ctx, losses, d_x, d_head, many, {wide_head}, ids, scales);
  EXPECT_LE(workspace.capacity(), std::size_t{64} << 20);
  const std::span<const std::int32_t> all_ids(ids);
  const std::span<const float> all_scales(scales);
  for (const std::int64_t n : {0, 1, 31, 32, 63, 64, 69}) {
    const auto i = static_cast<std::size_t>(n);
    lm_head_loss_forward_backward(ctx, one_loss.view.slice_cols(n, 1), one_d_x.view.slice_rows(n, 1), Out{},
                                  many.view.slice_rows(n, 1), {wide_head}, all_ids.subspan(i, 1),
                                  all_scales.subspan(i, 1));
    EXPECT_EQ(get(losses, 0, n), get(one_loss, 0, n)) << n;
    EXPECT_TRUE(same_bits(d_x.view.slice_rows(n, 1), one_d_x.view.slice_rows(n, 1))) << n;
  }
  EXPECT_TRUE(same_bits(forward_loss, losses));
  for (const std::int64_t half : {0, 35}) {
    const auto i = static_cast<std::size_t>(half);
    lm_head_loss_forward_backward(ctx, one_loss.view.slice_cols(half, 35), one_d_x.view.slice_rows(half, 35),
                                  one_d_head, many.view.slice_rows(half, 35), {wide_head},
                                  all_ids.subspan(i, 35), all_scales.subspan(i, 35));
  }
  EXPECT_LT(relative_error(d_head, one_d_head), 1e-13);
}

TEST_F(LossTest, NarrowHeadsTakeNarrowLogitGradients) {
  const Tensor x16 = random_tensor(DType::bf16, kRows, kWidth, rng);
  const Tensor head16 = random_tensor(DType::bf16, kVocab, kWidth, rng);
  Tensor loss32(DType::f32, 1, kRows), d_x16(DType::bf16, kRows, kWidth),
      d_head32(DType::f32, kVocab, kWidth);
  lm_head_loss_forward_backward(ctx, loss32, d_x16, d_head32, x16, {head16}, targets, weights);
  Tensor d_x(f64, kRows, kWidth), d_head(f64, kVocab, kWidth);
  const Tensor x64(f64, kRows, kWidth), head64(f64, kVocab, kWidth);
  convert(ctx, x64, x16);
  convert(ctx, head64, head16);
  lm_head_loss_forward_backward(ctx, loss, d_x, d_head, x64, {head64}, targets, weights);
  EXPECT_LT(relative_error(loss32, loss), 1e-6);
  EXPECT_LT(relative_error(d_x16, d_x), 1e-2);
  EXPECT_LT(relative_error(d_head32, d_head), 1e-2);
}

TEST_F(LossTest, InferenceUsesTheInvariantKernel) {
  Kernels broken = reference_kernels();
  broken.gemm.gemm = [](Out, In, bool, In, bool, In) { FAIL(); };
  const Context inference{.kernels = &broken, .workspace = &workspace, .inference = true};
  lm_head_loss_forward(inference, loss, x, {head}, targets);
  EXPECT_GT(get(loss, 0, 0), 0.0);
}

TEST_F(LossTest, ATargetBeyondTheVocabularyIsOurBug) {
  targets[2] = kVocab;
  EXPECT_DEATH(lm_head_loss_forward(ctx, loss, x, {head}, targets), "target beyond");
}

}  // namespace
}  // namespace stem
