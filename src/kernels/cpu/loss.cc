// Softmax cross-entropy, divergence from a teacher's distribution, difference from its residual stream, each
// with its gradient in one call.
#include <omp.h>

#include <cmath>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/loss.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kSumBlock = 4096;

float largest(const float* x, std::int64_t count) {
  Vec best[4] = {set(x[0]), set(x[0]), set(x[0]), set(x[0])};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) best[k] = hn::Max(best[k], load(x + i + k * kLanes));
  }
  const Vec all = hn::Max(hn::Max(best[0], best[1]), hn::Max(best[2], best[3]));
  float result = hn::GetLane(hn::MaxOfLanes(Floats(), all));
  for (; i < count; ++i) result = std::max(result, x[i]);
  return result;
}

/// out = e^(x − shift) (when out is not null); returns the sum.
float exponentials(float* out, const float* x, float shift, std::int64_t count) {
  Vec total = set(0.0f);
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    Vec e = exp(hn::Sub(load(x + i, part), set(shift)));
    if constexpr (std::is_same_v<decltype(part), Part>) {
      e = hn::IfThenElseZero(hn::FirstN(Floats(), static_cast<std::size_t>(part.n)), e);
    }
    total = hn::Add(total, e);
    if (out != nullptr) store(e, out + i, part);
  });
  return sum(total);
}

template <class T>
void scaled(T* out, const float* x, float factor, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto part)
                         HWY_ATTR { store(hn::Mul(load(x + i, part), set(factor)), out + i, part); });
}

/// Row c; `e` is one row of scratch, so that exp runs once and logits may be overwritten. Returns the loss.
template <class T>
float cross_entropy_row(T* d_logits, float* e, const float* logits, std::int64_t target, float weight,
                        std::int64_t count) {
  const float top = largest(logits, count);
  const float at_target = logits[target];
  const float total = exponentials(d_logits == nullptr ? nullptr : e, logits, top, count);
  if (d_logits != nullptr) {
    scaled(d_logits, e, weight / total, count);
    d_logits[target] = static_cast<T>(weight * (e[target] / total - 1.0f));
  }
  // In double: top and log(total) may cancel against the target's logit.
  return static_cast<float>(std::log(static_cast<double>(total)) + (static_cast<double>(top) - at_target));
}

/// Row c against a teacher's; `e` is two rows of scratch, `padded` apart. Returns the loss.
template <class T>
float divergence_row(T* d_logits, float* e, std::int64_t padded, const float* logits, const float* teacher,
                     float weight, std::int64_t count) {
  float *const q = e, *const p = e + padded;
  const float top_q = largest(logits, count), top_p = largest(teacher, count);
  // Blocks are summed in double: a small loss is what is left of these sums.
  const auto in_blocks = [&](auto&& sum_of) {
    double total = 0;
    for (std::int64_t i = 0; i < count; i += kSumBlock) total += sum_of(i, std::min(kSumBlock, count - i));
    return total;
  };
  const double total_q =
      in_blocks([&](std::int64_t i, std::int64_t n) { return exponentials(q + i, logits + i, top_q, n); });
  const double total_p =
      in_blocks([&](std::int64_t i, std::int64_t n) { return exponentials(p + i, teacher + i, top_p, n); });
  // log p − log q = (teacher − logits) − shift: where the two are close, nothing large cancels.
  const auto shift = static_cast<float>((static_cast<double>(top_p) - top_q) + std::log(total_p / total_q));
  const auto ratio = static_cast<float>(total_p / total_q);
  const float scale = weight / static_cast<float>(total_p);
  const double total = in_blocks([&](std::int64_t first, std::int64_t n) {
    Vec block = set(0.0f);
    for_vectors(n, [&](std::int64_t i, auto part) HWY_ATTR {
      const Vec at_p = load(p + first + i, part);
      const Vec apart = hn::Sub(load(teacher + first + i, part), load(logits + first + i, part));
      block = hn::MulAdd(at_p, hn::Sub(apart, set(shift)), block);
      if (d_logits == nullptr) return;
      const Vec difference = hn::MulSub(load(q + first + i, part), set(ratio), at_p);
      store(hn::Mul(difference, set(scale)), d_logits + first + i, part);
    });
    return sum(block);
  });
  return static_cast<float>(total / total_p);
}

/// `padded` · `rows` floats for each thread.
float* scratch_rows(std::int64_t padded, std::int64_t rows) {
  thread_local std::vector<float> memory;
  const auto needed = static_cast<std::size_t>(padded * rows * omp_get_max_threads());
  if (memory.size() < needed) memory.resize(needed);
  return memory.data();
}

/// loss[c] = row_loss(c, d_logits[c] or null, this thread's scratch) where targets[c] >= 0, else 0 and no
/// gradient.
template <class T, class RowLoss>
void over_rows(Out d_logits, Out loss, In logits, std::span<const std::int32_t> targets, float* scratch,
               std::int64_t scratch_size, RowLoss&& row_loss) {
  float* const losses = loss.row<float>(0);
#pragma omp parallel for schedule(static) if (logits.size() > kParallelElements)
  for (std::int64_t c = 0; c < logits.rows; ++c) {
    T* const d_row = d_logits ? d_logits.row<T>(c) : nullptr;
    if (targets[static_cast<std::size_t>(c)] < 0) {
      losses[c] = 0.0f;
      if (d_row != nullptr) std::fill_n(d_row, logits.cols, T(0.0f));
      continue;
    }
    losses[c] = row_loss(c, d_row, scratch + omp_get_thread_num() * scratch_size);
  }
}

std::int64_t padded_size(std::int64_t count) {
  return (count + 15) / 16 * 16;
}

void softmax_cross_entropy(Out d_logits, Out loss, In logits, std::span<const std::int32_t> targets,
                           std::span<const float> weights) {
  const std::int64_t padded = padded_size(logits.cols);
  float* const scratch = d_logits ? scratch_rows(padded, 1) : nullptr;
  with_type(d_logits ? d_logits.dtype : DType::f32, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    over_rows<T>(d_logits, loss, logits, targets, scratch, padded, [&](std::int64_t c, T* d_row, float* e) {
      const auto row = static_cast<std::size_t>(c);
      return cross_entropy_row(d_row, e, logits.row<float>(c), targets[row],
                               d_row == nullptr ? 0.0f : weights[row], logits.cols);
    });
  });
}

void softmax_divergence(Out d_logits, Out loss, In logits, In teacher, std::span<const std::int32_t> targets,
                        std::span<const float> weights) {
  const std::int64_t padded = padded_size(logits.cols);
  float* const scratch = scratch_rows(padded, 2);
  with_type(d_logits ? d_logits.dtype : DType::f32, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    over_rows<T>(
        d_logits, loss, logits, targets, scratch, 2 * padded, [&](std::int64_t c, T* d_row, float* e) {
          return divergence_row(d_row, e, padded, logits.row<float>(c), teacher.row<float>(c),
                                d_row == nullptr ? 0.0f : weights[static_cast<std::size_t>(c)], logits.cols);
        });
  });
}

template <class T>
float stream_difference_row(float* d_x, T* copy, const float* x, const float* to, float weight,
                            std::int64_t count) {
  Vec squares = set(0.0f), differences = set(0.0f);
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec target = load(to + i, part), apart = hn::Sub(load(x + i, part), target);
    squares = hn::MulAdd(target, target, squares);
    differences = hn::MulAdd(apart, apart, differences);
  });
  const float square = sum(squares), slope = square > 0.0f ? 2.0f * weight / square : 0.0f;
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec apart = hn::Sub(load(x + i, part), load(to + i, part));
    const Vec sum = hn::MulAdd(apart, set(slope), load(d_x + i, part));
    store(sum, d_x + i, part);
    if (copy != nullptr) store(sum, copy + i, part);
  });
  return square > 0.0f ? sum(differences) / square : 0.0f;
}

void stream_difference(Out d_x, Out copy, Out loss, In x, In to, std::span<const float> weights) {
  float* const losses = loss.row<float>(0);
  with_type(copy ? copy.dtype : DType::f32, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (x.size() > kParallelElements)
    for (std::int64_t n = 0; n < x.rows; ++n)
      losses[n] = stream_difference_row(d_x.row<float>(n), copy ? copy.row<T>(n) : nullptr, x.row<float>(n),
                                        to.row<float>(n), weights[static_cast<std::size_t>(n)], x.cols);
  });
}

}  // namespace

LossKernels loss_kernels() {
  return {softmax_cross_entropy, softmax_divergence, stream_difference};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(loss_kernels);
LossKernels loss_kernels() {
  return HWY_DYNAMIC_DISPATCH(loss_kernels)();
}
}  // namespace stem::cpu
#endif
