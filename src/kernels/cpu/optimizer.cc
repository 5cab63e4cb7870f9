// AdamW over matrices and over rows of a table, the gradient's norm, and conversion of dtype.
#include <cmath>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

/// The update's constants. With c1 = 1 − β₁ᵗ and c2 = 1 − β₂ᵗ:
///   w (1 − lr·decay) − lr · (m/c1) / (√(v/c2) + ε)
struct Step {
  float keep, rate, inv_c2, beta1, beta2, eps, grad_scale;

  explicit Step(const AdamW& a)
      : keep(static_cast<float>(1.0 - static_cast<double>(a.lr) * a.decay)),
        rate(static_cast<float>(a.lr / (1.0 - std::pow(a.beta1, static_cast<double>(a.step))))),
        inv_c2(static_cast<float>(1.0 / (1.0 - std::pow(a.beta2, static_cast<double>(a.step))))),
        beta1(a.beta1),
        beta2(a.beta2),
        eps(a.eps),
        grad_scale(a.grad_scale) {}
};

/// C is the copy's type; copy may be null.
template <class C>
void update(float* w, float* m, float* v, const float* g, C* copy, const Step& s, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec grad = hn::Mul(load(g + i, part), set(s.grad_scale));
    const Vec first = hn::MulAdd(set(s.beta1), load(m + i, part), hn::Mul(set(1.0f - s.beta1), grad));
    const Vec second =
        hn::MulAdd(set(s.beta2), load(v + i, part), hn::Mul(hn::Mul(set(1.0f - s.beta2), grad), grad));
    const Vec root = hn::Add(hn::Sqrt(hn::Mul(second, set(s.inv_c2))), set(s.eps));
    const Vec move = hn::Div(hn::Mul(set(s.rate), first), root);
    const Vec weight = hn::MulSub(load(w + i, part), set(s.keep), move);
    store(first, m + i, part);
    store(second, v + i, part);
    store(weight, w + i, part);
    if (copy != nullptr) store(weight, copy + i, part);
  });
}

constexpr std::int64_t kChunk = 4096;

void adamw(Out w, Out m, Out v, In g, Out copy, const AdamW& a) {
  const Step step(a);
  const std::int64_t chunks = (w.cols + kChunk - 1) / kChunk;
  for (std::int64_t row = 0; row < w.rows; ++row) {
    float *const pw = w.row<float>(row), *const pm = m.row<float>(row), *const pv = v.row<float>(row);
    const float* const pg = g.row<float>(row);
    with_type(copy ? copy.dtype : DType::f32, [&](auto* type) {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
      T* const pc = copy ? copy.row<T>(row) : nullptr;
#pragma omp parallel for schedule(static) if (w.cols > kParallelElements)
      for (std::int64_t c = 0; c < chunks; ++c) {
        const std::int64_t i = c * kChunk;
        update(pw + i, pm + i, pv + i, pg + i, pc == nullptr ? nullptr : pc + i, step,
               std::min(kChunk, w.cols - i));
      }
    });
  }
}

void adamw_rows(Out w, Out m, Out v, In g, std::span<const std::int32_t> ids, const AdamW& a) {
  const Step step(a);
  const auto count = static_cast<std::int64_t>(ids.size());
#pragma omp parallel for schedule(static) if (count * w.cols > kParallelElements)
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t id = ids[static_cast<std::size_t>(r)];
    update<float>(w.row<float>(id), m.row<float>(id), v.row<float>(id), g.row<float>(r), nullptr, step,
                  w.cols);
  }
}

/// What the updates behind `from` leave of m, v and w once the momentum no longer moves w.
struct Rest {
  std::int64_t from = -1;
  float m = 1, v = 1, w = 1;

  Rest(std::int64_t first, const AdamWHistory& h) : from(first) {
    const std::int64_t n = h.updates(), count = n - first;
    if (count == 0) return;
    m = static_cast<float>(std::pow(static_cast<double>(h.beta1), static_cast<double>(count)));
    v = static_cast<float>(std::pow(static_cast<double>(h.beta2), static_cast<double>(count)));
    const double before = first > 0 ? h.log_keep[static_cast<std::size_t>(first - 1)] : 0.0;
    w = static_cast<float>(std::exp(h.log_keep[static_cast<std::size_t>(n - 1)] - before));
  }
};

/// Replays updates from + 1, … on one row; every step is `update` with a zero gradient, bit for bit.
void catch_up_row(float* w, float* m, float* v, std::int64_t cols, std::int64_t from, const AdamWHistory& h) {
  // A number below 2^-25 |w| is less than half a unit in the last place of w.
  const Vec resolution = set(0x1p-25f);
  const Vec beta1 = set(h.beta1), beta2 = set(h.beta2), eps = set(h.eps);
  const Vec top = set(static_cast<float>(h.top_rate));
  Rest rest(from, h);
  for_vectors(cols, [&](std::int64_t i, auto part) HWY_ATTR {
    Vec weight = load(w + i, part), first = load(m + i, part), second = load(v + i, part);
    std::int64_t t = from;
    for (; t < h.updates(); ++t) {
      const auto at = static_cast<std::size_t>(t);
      const Vec next = hn::Mul(beta1, first), square = hn::Mul(beta2, second);
      const Vec root = hn::Add(hn::Sqrt(hn::Mul(square, set(static_cast<float>(h.inv_c2[at])))), eps);
      const Vec least = hn::Mul(resolution, hn::Mul(hn::Abs(weight), root));
      if (hn::AllTrue(Floats(), hn::Le(hn::Abs(hn::Mul(top, next)), least))) break;
      const Vec move = hn::Div(hn::Mul(set(static_cast<float>(h.rate[at])), next), root);
      weight = hn::MulSub(weight, set(static_cast<float>(h.keep[at])), move);
      first = next;
      second = square;
    }
    if (t != rest.from) rest = Rest(t, h);  // most vectors of a row end at nearly the same step
    store(hn::Mul(weight, set(rest.w)), w + i, part);
    store(hn::Mul(first, set(rest.m)), m + i, part);
    store(hn::Mul(second, set(rest.v)), v + i, part);
  });
}

void adamw_catch_up(Out w, Out m, Out v, std::span<const std::int32_t> ids,
                    std::span<const std::int64_t> from, const AdamWHistory& h) {
  const auto count = static_cast<std::int64_t>(ids.size());
#pragma omp parallel for schedule(dynamic, 4) if (count * w.cols > kParallelElements)
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t id = ids[static_cast<std::size_t>(r)], first = from[static_cast<std::size_t>(r)];
    if (first < h.updates())
      catch_up_row(w.row<float>(id), m.row<float>(id), v.row<float>(id), w.cols, first, h);
  }
}

double sum_of_squares(const float* x, std::int64_t count) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  auto even = hn::Zero(d), odd = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    const auto a = hn::PromoteTo(d, hn::LoadU(half, x + i));
    const auto b = hn::PromoteTo(d, hn::LoadU(half, x + i + lanes));
    even = hn::MulAdd(a, a, even);
    odd = hn::MulAdd(b, b, odd);
  }
  double total = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < count; ++i) total += static_cast<double>(x[i]) * x[i];
  return total;
}

// Partial sums over fixed chunks: the same sum for every number of threads.
double squared_norm(In g) {
  const bool flat = g.stride == g.cols || g.rows == 1;
  const std::int64_t rows = flat ? 1 : g.rows, cols = flat ? g.size() : g.cols;
  const std::int64_t per_row = (cols + kChunk - 1) / kChunk;
  thread_local std::vector<double> partial_store;
  partial_store.resize(static_cast<std::size_t>(rows * per_row));
  double* const partials = partial_store.data();
#pragma omp parallel for schedule(static) if (g.size() > kParallelElements)
  for (std::int64_t p = 0; p < rows * per_row; ++p) {
    const std::int64_t first = p % per_row * kChunk;
    partials[p] = sum_of_squares(g.row<float>(p / per_row) + first, std::min(kChunk, cols - first));
  }
  double total = 0;
  for (const double partial : partial_store) total += partial;
  return total;
}

template <class D, class S>
void convert_matrix(Out dst, In src) {
  const bool flat = dst.stride == dst.cols && src.stride == src.cols;
  const std::int64_t rows = flat ? 1 : src.rows, cols = flat ? src.size() : src.cols;
  const std::int64_t per_row = (cols + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) if (src.size() > kParallelElements)
  for (std::int64_t p = 0; p < rows * per_row; ++p) {
    const std::int64_t first = p % per_row * kChunk;
    D* const to = dst.row<D>(p / per_row) + first;
    const S* const from = src.row<S>(p / per_row) + first;
    for_vectors(std::min(kChunk, cols - first),
                [&](std::int64_t i, auto part) HWY_ATTR { store(load(from + i, part), to + i, part); });
  }
}

void convert(Out dst, In src) {
  with_type(dst.dtype, [&](auto* to) {
    with_type(src.dtype, [&](auto* from) {
      convert_matrix<std::remove_cv_t<std::remove_pointer_t<decltype(to)>>,
                     std::remove_cv_t<std::remove_pointer_t<decltype(from)>>>(dst, src);
    });
  });
}

}  // namespace

OptimizerKernels optimizer_kernels() {
  return {adamw, adamw_rows, adamw_catch_up, squared_norm, convert};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(optimizer_kernels);
OptimizerKernels optimizer_kernels() {
  return HWY_DYNAMIC_DISPATCH(optimizer_kernels)();
}
}  // namespace stem::cpu
#endif
