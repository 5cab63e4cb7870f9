// Mixtures of experts: routing and the movement of rows.
#include <algorithm>
#include <cmath>

#include "kernels/reference/families.h"
#include "kernels/reference/rows_as_doubles.h"

namespace stem::reference {
namespace {

// log Σ exp(values); values become exp(values) / Σ exp(values).
double softmax(Row& values) {
  const double top = *std::max_element(values.begin(), values.end());
  double total = 0.0;
  for (const double v : values) total += std::exp(v - top);
  const double lse = top + std::log(total);
  for (double& v : values) v = std::exp(v - lse);
  return lse;
}

void route(Out probabilities, Out lse, Out mix, std::int32_t* expert, In logits) {
  Row sums;
  for (std::int64_t n = 0; n < logits.rows; ++n) {
    Row row = load_row(logits, n), best;
    std::vector<bool> taken(row.size(), false);
    for (std::int64_t j = 0; j < mix.cols; ++j) {
      std::size_t choice = row.size();
      for (std::size_t e = 0; e < row.size(); ++e) {
        if (!taken[e] && (choice == row.size() || row[e] > row[choice])) choice = e;
      }
      taken[choice] = true;
      best.push_back(row[choice]);
      expert[n * mix.cols + j] = static_cast<std::int32_t>(choice);
    }
    softmax(best);
    store_row(mix, n, best);
    sums.push_back(softmax(row));
    store_row(probabilities, n, row);
  }
  if (logits.rows > 0) store_row(lse, 0, sums);
}

RouterSums router_sums(In probabilities, In lse, const Dispatch& d) {
  RouterSums sums;
  const auto n = static_cast<double>(d.positions);
  Row mean(static_cast<std::size_t>(d.experts), 0.0);
  const Row log_sums = load_row(lse, 0);
  for (std::int64_t i = 0; i < d.positions; ++i) {
    const Row p = load_row(probabilities, i);
    for (std::size_t e = 0; e < p.size(); ++e) {
      mean[e] += p[e] / n;
      if (p[e] > 0) sums.entropy -= p[e] * std::log(p[e]) / n;
    }
    const double s = log_sums[static_cast<std::size_t>(i)];
    sums.z += s * s / n;
  }
  for (std::size_t e = 0; e < mean.size(); ++e) {
    const double share = static_cast<double>(d.counts[e]) / (n * static_cast<double>(d.chosen));
    sums.balance += static_cast<double>(d.experts) * share * mean[e];
  }
  return sums;
}

// With shares f: of E·Σ f_i mean(p_i), E/N·p_i (f_i − Σ_l f_l p_l); of mean(lse²), 2/N·lse·p_i; of the mixing
// weights w = softmax(chosen logits), w_j (d_w_j − Σ_i w_i d_w_i).
void route_backward(Out d_logits, In d_mix, In mix, In probabilities, In lse, const Dispatch& d,
                    double balance, double z) {
  const auto n = static_cast<double>(d.positions);
  const Row log_sums = d.positions > 0 ? load_row(lse, 0) : Row{};
  for (std::int64_t i = 0; i < d.positions; ++i) {
    const Row p = load_row(probabilities, i), w = load_row(mix, i), d_w = load_row(d_mix, i);
    const auto share = [&](std::size_t e) {
      return static_cast<double>(d.counts[e]) / (n * static_cast<double>(d.chosen));
    };
    double mean_share = 0.0, mean_d = 0.0;
    for (std::size_t e = 0; e < p.size(); ++e) mean_share += share(e) * p[e];
    for (std::size_t j = 0; j < w.size(); ++j) mean_d += w[j] * d_w[j];
    Row d_row(p.size());
    for (std::size_t e = 0; e < p.size(); ++e) {
      d_row[e] = balance * static_cast<double>(d.experts) / n * p[e] * (share(e) - mean_share) +
                 z * 2.0 / n * log_sums[static_cast<std::size_t>(i)] * p[e];
    }
    for (std::size_t j = 0; j < w.size(); ++j) {
      const std::int32_t e = d.expert[i * d.chosen + static_cast<std::int64_t>(j)];
      d_row[static_cast<std::size_t>(e)] += w[j] * (d_w[j] - mean_d);
    }
    store_row(d_logits, i, d_row);
  }
}

void gather(Out rows, In x, const Dispatch& d) {
  const Row zeros(static_cast<std::size_t>(x.cols), 0.0);
  for (std::int64_t m = 0; m < rows.rows; ++m)
    store_row(rows, m, d.rows[m] < 0 ? zeros : load_row(x, d.rows[m]));
}

void combine(Out x, In rows, In mix, const Dispatch& d) {
  for (std::int64_t n = 0; n < d.positions; ++n) {
    Row sum(static_cast<std::size_t>(x.cols), 0.0);
    const Row w = mix ? load_row(mix, n) : Row(static_cast<std::size_t>(d.chosen), 1.0);
    for (std::int64_t j = 0; j < d.chosen; ++j) {
      const Row y = load_row(rows, d.slots[n * d.chosen + j]);
      for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += w[static_cast<std::size_t>(j)] * y[c];
    }
    add_row(x, n, sum);
  }
}

void combine_backward(Out d_rows, Out d_mix, In d_x, In rows, In mix, const Dispatch& d) {
  const Row zeros(static_cast<std::size_t>(d_rows.cols), 0.0);
  for (std::int64_t m = 0; m < d_rows.rows; ++m) {
    if (d.rows[m] < 0) store_row(d_rows, m, zeros);
  }
  for (std::int64_t n = 0; n < d.positions; ++n) {
    const Row d_y = load_row(d_x, n);
    const Row w = mix ? load_row(mix, n) : Row(static_cast<std::size_t>(d.chosen), 1.0);
    Row d_w(w.size(), 0.0);
    for (std::size_t j = 0; j < w.size(); ++j) {
      const std::int64_t slot = d.slots[n * d.chosen + static_cast<std::int64_t>(j)];
      Row scaled = d_y;
      for (double& v : scaled) v *= w[j];
      if (d_mix) {
        const Row y = load_row(rows, slot);
        for (std::size_t c = 0; c < y.size(); ++c) d_w[j] += d_y[c] * y[c];
      }
      store_row(d_rows, slot, scaled);
    }
    if (d_mix) store_row(d_mix, n, d_w);
  }
}

}  // namespace

MoeKernels moe_kernels() {
  return {.route = route,
          .router_sums = router_sums,
          .route_backward = route_backward,
          .gather = gather,
          .combine = combine,
          .combine_backward = combine_backward};
}

}  // namespace stem::reference
