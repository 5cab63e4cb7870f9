// Cross-entropy, AdamW and conversions.
#include <algorithm>
#include <cmath>

#include "kernels/reference/families.h"
#include "kernels/reference/rows_as_doubles.h"

namespace stem::reference {
namespace {

void softmax_cross_entropy(Out d_logits, Out loss, In logits, std::span<const std::int32_t> targets,
                           std::span<const float> weights) {
  Row losses(static_cast<std::size_t>(logits.rows), 0.0);
  for (std::int64_t c = 0; c < logits.rows; ++c) {
    const auto row = static_cast<std::size_t>(c);
    const bool ignored = targets[row] < 0;
    if (ignored) {
      if (d_logits) store_row(d_logits, c, Row(static_cast<std::size_t>(logits.cols), 0.0));
      continue;
    }
    const auto target = static_cast<std::size_t>(targets[row]);
    Row p = load_row(logits, c);
    const double top = *std::max_element(p.begin(), p.end());
    double sum = 0.0;
    for (const double z : p) sum += std::exp(z - top);
    const double log_sum = top + std::log(sum);
    losses[row] = log_sum - p[target];
    if (!d_logits) continue;
    for (double& z : p) z = std::exp(z - log_sum);
    p[target] -= 1.0;
    for (double& z : p) z *= static_cast<double>(weights[row]);
    store_row(d_logits, c, p);
  }
  store_row(loss, 0, losses);
}

// z becomes log softmax(z).
void log_softmax(Row& z) {
  const double top = *std::max_element(z.begin(), z.end());
  double sum = 0.0;
  for (const double x : z) sum += std::exp(x - top);
  for (double& x : z) x -= top + std::log(sum);
}

void softmax_divergence(Out d_logits, Out loss, In logits, In teacher, std::span<const std::int32_t> targets,
                        std::span<const float> weights) {
  Row losses(static_cast<std::size_t>(logits.rows), 0.0);
  for (std::int64_t c = 0; c < logits.rows; ++c) {
    const auto row = static_cast<std::size_t>(c);
    Row q = load_row(logits, c), p = load_row(teacher, c);
    if (targets[row] < 0) {
      if (d_logits) store_row(d_logits, c, Row(q.size(), 0.0));
      continue;
    }
    log_softmax(q);
    log_softmax(p);
    for (std::size_t v = 0; v < p.size(); ++v) losses[row] += std::exp(p[v]) * (p[v] - q[v]);
    if (!d_logits) continue;
    for (std::size_t v = 0; v < p.size(); ++v)
      q[v] = static_cast<double>(weights[row]) * (std::exp(q[v]) - std::exp(p[v]));
    store_row(d_logits, c, q);
  }
  store_row(loss, 0, losses);
}

void stream_difference(Out d_x, Out copy, Out loss, In x, In to, std::span<const float> weights) {
  Row losses(static_cast<std::size_t>(x.rows), 0.0);
  for (std::int64_t n = 0; n < x.rows; ++n) {
    const auto row = static_cast<std::size_t>(n);
    const Row at = load_row(x, n), target = load_row(to, n);
    double square = 0, difference = 0;
    for (std::size_t d = 0; d < at.size(); ++d) {
      square += target[d] * target[d];
      difference += (at[d] - target[d]) * (at[d] - target[d]);
    }
    Row gradient(at.size(), 0.0);
    if (square > 0) {
      losses[row] = difference / square;
      for (std::size_t d = 0; d < at.size(); ++d)
        gradient[d] = 2 * static_cast<double>(weights[row]) * (at[d] - target[d]) / square;
    }
    add_row(d_x, n, gradient);
    if (copy) store_row(copy, n, load_row(d_x, n));
  }
  store_row(loss, 0, losses);
}

void adamw_row(const Out& w, const Out& m, const Out& v, std::int64_t i, const Row& g, const Out& copy,
               const AdamW& a) {
  const double lr = static_cast<double>(a.lr), decay = static_cast<double>(a.decay);
  const double beta1 = static_cast<double>(a.beta1), beta2 = static_cast<double>(a.beta2);
  const double correction1 = 1.0 - std::pow(beta1, static_cast<double>(a.step));
  const double correction2 = 1.0 - std::pow(beta2, static_cast<double>(a.step));
  Row weight = load_row(w, i), first = load_row(m, i), second = load_row(v, i);
  for (std::size_t j = 0; j < g.size(); ++j) {
    const double gradient = g[j] * static_cast<double>(a.grad_scale);
    first[j] = beta1 * first[j] + (1.0 - beta1) * gradient;
    second[j] = beta2 * second[j] + (1.0 - beta2) * gradient * gradient;
    weight[j] -= lr * decay * weight[j];
    weight[j] -=
        lr * (first[j] / correction1) / (std::sqrt(second[j] / correction2) + static_cast<double>(a.eps));
  }
  store_row(m, i, first);
  store_row(v, i, second);
  store_row(w, i, weight);
  // The copy rounds what w holds, so that copying w again later changes nothing.
  if (copy) store_row(copy, i, load_row(w, i));
}

void adamw(Out w, Out m, Out v, In g, Out copy, const AdamW& a) {
  for (std::int64_t i = 0; i < w.rows; ++i) adamw_row(w, m, v, i, load_row(g, i), copy, a);
}

void adamw_rows(Out w, Out m, Out v, In g, std::span<const std::int32_t> ids, const AdamW& a) {
  for (std::size_t r = 0; r < ids.size(); ++r) {
    adamw_row(w, m, v, ids[r], load_row(g, static_cast<std::int64_t>(r)), Out{}, a);
  }
}

// Every missed update, one by one: the oracle knows no shortcut.
void adamw_catch_up(Out w, Out m, Out v, std::span<const std::int32_t> ids,
                    std::span<const std::int64_t> from, const AdamWHistory& h) {
  const double beta1 = static_cast<double>(h.beta1), beta2 = static_cast<double>(h.beta2);
  for (std::size_t r = 0; r < ids.size(); ++r) {
    Row weight = load_row(w, ids[r]), first = load_row(m, ids[r]), second = load_row(v, ids[r]);
    for (auto t = static_cast<std::size_t>(from[r]); t < h.rate.size(); ++t) {
      for (std::size_t j = 0; j < weight.size(); ++j) {
        first[j] *= beta1;
        second[j] *= beta2;
        weight[j] *= h.keep[t];
        weight[j] -= h.rate[t] * first[j] / (std::sqrt(second[j] * h.inv_c2[t]) + static_cast<double>(h.eps));
      }
    }
    store_row(m, ids[r], first);
    store_row(v, ids[r], second);
    store_row(w, ids[r], weight);
  }
}

double squared_norm(In g) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < g.rows; ++i) {
    for (const double x : load_row(g, i)) sum += x * x;
  }
  return sum;
}

void convert(Out dst, In src) {
  for (std::int64_t i = 0; i < dst.rows; ++i) store_row(dst, i, load_row(src, i));
}

}  // namespace

LossKernels loss_kernels() {
  return {.softmax_cross_entropy = softmax_cross_entropy,
          .softmax_divergence = softmax_divergence,
          .stream_difference = stream_difference};
}

OptimizerKernels optimizer_kernels() {
  return {.adamw = adamw,
          .adamw_rows = adamw_rows,
          .adamw_catch_up = adamw_catch_up,
          .squared_norm = squared_norm,
          .convert = convert};
}

}  // namespace stem::reference
