// Mixtures of experts: routing and the movement of rows. Routing works on E numbers a position, a hundredth
// of one product's work, so it is plain code; rows are moved in vectors.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/moe.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

constexpr std::int64_t kRouterWork = 16;  // an exponential costs as much as moving this many elements

/// out = softmax(values); returns log Σ exp(values). In place when out is values.
float softmax(float* out, const float* values, std::int64_t count) {
  const float top = *std::max_element(values, values + count);
  float total = 0.0f;
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = std::exp(values[i] - top);
    total += out[i];
  }
  for (std::int64_t i = 0; i < count; ++i) out[i] /= total;
  return top + std::log(total);
}

/// The largest of values that is not yet among the first `taken` choices; the lower index where equal.
std::int32_t next_choice(const float* values, std::int64_t count, const std::int32_t* chosen,
                         std::int64_t taken) {
  std::int32_t best = -1;
  for (std::int32_t e = 0; e < count; ++e) {
    if ((best < 0 || values[e] > values[best]) && std::find(chosen, chosen + taken, e) == chosen + taken)
      best = e;
  }
  return best;
}

void route(Out probabilities, Out lse, Out mix, std::int32_t* expert, In logits) {
  const std::int64_t k = mix.cols;
#pragma omp parallel for schedule(static) if (logits.size() * kRouterWork > kParallelElements)
  for (std::int64_t n = 0; n < logits.rows; ++n) {
    const float* const values = logits.row<float>(n);
    float* const weights = mix.row<float>(n);
    std::int32_t* const chosen = expert + n * k;
    for (std::int64_t j = 0; j < k; ++j) {
      chosen[j] = next_choice(values, logits.cols, chosen, j);
      weights[j] = values[chosen[j]];
    }
    softmax(weights, weights, k);
    lse.row<float>(0)[n] = softmax(probabilities.row<float>(n), values, logits.cols);
  }
}

RouterSums router_sums(In probabilities, In lse, const Dispatch& d) {
  // Blocks of fixed size, so that the sums do not depend on the number of threads.
  constexpr std::int64_t kBlock = 64;
  const std::int64_t blocks = (d.positions + kBlock - 1) / kBlock, width = d.experts + 2;
  std::vector<double> partials(static_cast<std::size_t>(blocks * width), 0.0);
#pragma omp parallel for schedule(static) if (probabilities.size() * kRouterWork > kParallelElements)
  for (std::int64_t b = 0; b < blocks; ++b) {
    double* const mean = partials.data() + b * width;  // Σ p of each expert, then Σ lse², Σ entropy
    for (std::int64_t n = b * kBlock; n < std::min(d.positions, (b + 1) * kBlock); ++n) {
      const float* const p = probabilities.row<float>(n);
      float entropy = 0.0f;
      for (std::int64_t e = 0; e < d.experts; ++e) {
        mean[e] += static_cast<double>(p[e]);
        if (p[e] > 0.0f) entropy -= p[e] * std::log(p[e]);
      }
      const auto s = static_cast<double>(lse.row<float>(0)[n]);
      mean[d.experts] += s * s;
      mean[d.experts + 1] += static_cast<double>(entropy);
    }
  }
  std::vector<double> total(static_cast<std::size_t>(width), 0.0);
  for (std::int64_t i = 0; i < blocks * width; ++i)
    total[static_cast<std::size_t>(i % width)] += partials[static_cast<std::size_t>(i)];
  const auto n = static_cast<double>(d.positions), experts = static_cast<double>(d.experts);
  RouterSums sums;
  for (std::int64_t e = 0; e < d.experts; ++e) {
    const double share = static_cast<double>(d.counts[e]) / (n * static_cast<double>(d.chosen));
    sums.balance += experts * share * total[static_cast<std::size_t>(e)] / n;
  }
  sums.z = total[static_cast<std::size_t>(d.experts)] / n;
  sums.entropy = total[static_cast<std::size_t>(d.experts + 1)] / n;
  return sums;
}

// With shares f: of E·Σ f_i mean(p_i), E/N·p_i (f_i − Σ_l f_l p_l); of mean(lse²), 2/N·lse·p_i; of the mixing
// weights w = softmax(chosen logits), w_j (d_w_j − Σ_i w_i d_w_i).
void route_backward(Out d_logits, In d_mix, In mix, In probabilities, In lse, const Dispatch& d,
                    double balance, double z) {
  const auto n = static_cast<double>(d.positions);
  std::vector<float> share(static_cast<std::size_t>(d.experts));
  for (std::int64_t e = 0; e < d.experts; ++e) {
    share[static_cast<std::size_t>(e)] =
        static_cast<float>(static_cast<double>(d.counts[e]) / (n * static_cast<double>(d.chosen)));
  }
  const auto balance_scale = static_cast<float>(balance * static_cast<double>(d.experts) / n);
  const auto z_scale = static_cast<float>(z * 2.0 / n);
  const float* const f = share.data();
#pragma omp parallel for schedule(static) if (d_logits.size() > kParallelElements)
  for (std::int64_t i = 0; i < d.positions; ++i) {
    const float *const p = probabilities.row<float>(i), *const w = mix.row<float>(i),
                       *const d_w = d_mix.row<float>(i);
    float* const d_row = d_logits.row<float>(i);
    float mean_share = 0.0f, mean_d = 0.0f;
    for (std::int64_t e = 0; e < d.experts; ++e) mean_share += f[e] * p[e];
    for (std::int64_t j = 0; j < d.chosen; ++j) mean_d += w[j] * d_w[j];
    const float of_lse = z_scale * lse.row<float>(0)[i];
    for (std::int64_t e = 0; e < d.experts; ++e)
      d_row[e] = p[e] * (balance_scale * (f[e] - mean_share) + of_lse);
    for (std::int64_t j = 0; j < d.chosen; ++j) d_row[d.expert[i * d.chosen + j]] += w[j] * (d_w[j] - mean_d);
  }
}

void gather(Out rows, In x, const Dispatch& d) {
  const auto bytes = static_cast<std::size_t>(x.cols * size_of(x.dtype));
#pragma omp parallel for schedule(static) if (rows.size() > kParallelElements)
  for (std::int64_t m = 0; m < rows.rows; ++m) {
    void* const to = rows.slice_rows(m, 1).data;
    if (d.rows[m] < 0)
      std::memset(to, 0, bytes);
    else
      std::memcpy(to, x.slice_rows(d.rows[m], 1).data, bytes);
  }
}

template <class X, class Y>
void combine_row(X* x, const Y* rows, std::int64_t stride, const float* weights, const std::int32_t* slots,
                 std::int64_t chosen, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    Vec total = set(0.0f);
    for (std::int64_t j = 0; j < chosen; ++j) {
      const Vec y = load(rows + slots[j] * stride + i, part);
      total = weights == nullptr ? hn::Add(total, y) : hn::MulAdd(set(weights[j]), y, total);
    }
    store(hn::Add(load(x + i, part), total), x + i, part);
  });
}

void combine(Out x, In rows, In mix, const Dispatch& d) {
  with_type(x.dtype, [&](auto* type_x) {
    with_type(rows.dtype, [&](auto* type_y) {
      using X = std::remove_cv_t<std::remove_pointer_t<decltype(type_x)>>;
      using Y = std::remove_cv_t<std::remove_pointer_t<decltype(type_y)>>;
#pragma omp parallel for schedule(static) if (x.size() > kParallelElements)
      for (std::int64_t n = 0; n < d.positions; ++n) {
        combine_row(x.row<X>(n), rows.row<Y>(0), rows.stride, mix ? mix.row<float>(n) : nullptr,
                    d.slots + n * d.chosen, d.chosen, x.cols);
      }
    });
  });
}

template <class T>
float combine_row_backward(T* d_row, const float* d_x, const T* row, float weight, std::int64_t count) {
  Vec products = set(0.0f);
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    const Vec d = load(d_x + i, part);
    if (row != nullptr) products = hn::MulAdd(d, load(row + i, part), products);
    store(hn::Mul(set(weight), d), d_row + i, part);
  });
  return sum(products);
}

void combine_backward(Out d_rows, Out d_mix, In d_x, In rows, In mix, const Dispatch& d) {
  const auto bytes = static_cast<std::size_t>(d_rows.cols * size_of(d_rows.dtype));
  for (std::int64_t m = 0; m < d_rows.rows; ++m) {
    if (d.rows[m] < 0) std::memset(d_rows.slice_rows(m, 1).data, 0, bytes);
  }
  with_type(d_rows.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (d_x.size() > kParallelElements)
    for (std::int64_t n = 0; n < d.positions; ++n) {
      for (std::int64_t j = 0; j < d.chosen; ++j) {
        const std::int64_t slot = d.slots[n * d.chosen + j];
        const float d_weight =
            combine_row_backward(d_rows.row<T>(slot), d_x.row<float>(n), d_mix ? rows.row<T>(slot) : nullptr,
                                 mix ? mix.row<float>(n)[j] : 1.0f, d_x.cols);
        if (d_mix) d_mix.row<float>(n)[j] = d_weight;
      }
    }
  });
}

}  // namespace

MoeKernels moe_kernels() {
  return {route, router_sums, route_backward, gather, combine, combine_backward};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(moe_kernels);
MoeKernels moe_kernels() {
  return HWY_DYNAMIC_DISPATCH(moe_kernels)();
}
}  // namespace stem::cpu
#endif
