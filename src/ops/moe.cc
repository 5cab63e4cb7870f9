#include "ops/moe.h"

#include <algorithm>

#include "core/rng.h"
#include "ops/checks.h"

namespace stem {
namespace {

constexpr std::uint64_t kHashStream = 0x68617368;  // apart from every stream of initialisation

std::int64_t alignment(const Context& ctx) {
  return ctx.inference ? 1 : kExpertAlignment;
}

void require_dispatch(const Dispatch& d, std::string_view what) {
  require(d.positions >= 0 && d.chosen >= 1 && d.chosen <= d.experts, what);
  require(d.expert != nullptr && d.slots != nullptr && d.rows != nullptr && d.offsets != nullptr &&
              d.counts != nullptr,
          what);
}

void require_mix(const In& mix, const Dispatch& d, std::string_view what) {
  if (mix) require_wide(mix, d.positions, d.chosen, what);
}

}  // namespace

std::int64_t max_dispatch_rows(const Context& ctx, std::int64_t positions, std::int64_t chosen,
                               std::int64_t experts) {
  return positions * chosen + experts * (alignment(ctx) - 1);
}

Dispatch allocate_dispatch(const Context& ctx, std::int64_t positions, std::int64_t chosen,
                           std::int64_t experts) {
  require(ctx.workspace != nullptr, "allocate_dispatch: a context without workspace");
  Workspace& memory = *ctx.workspace;
  const auto ints = [&](std::int64_t count) {
    return memory.array<std::int32_t>(std::max<std::int64_t>(count, 1));
  };
  Dispatch d{.positions = positions, .chosen = chosen, .experts = experts};
  d.expert = ints(positions * chosen);
  d.slots = ints(positions * chosen);
  d.rows = ints(max_dispatch_rows(ctx, positions, chosen, experts));
  d.offsets = ints(experts + 1);
  d.counts = ints(experts);
  return d;
}

void sort_by_expert(const Context& ctx, Dispatch& d) {
  require_dispatch(d, "sort_by_expert: dispatch");
  const std::int64_t assignments = d.positions * d.chosen, align = alignment(ctx);
  std::fill_n(d.counts, d.experts, 0);
  for (std::int64_t i = 0; i < assignments; ++i) {
    require(d.expert[i] >= 0 && d.expert[i] < d.experts, "sort_by_expert: no such expert");
    ++d.counts[d.expert[i]];
  }
  d.offsets[0] = 0;
  for (std::int64_t e = 0; e < d.experts; ++e) {
    d.offsets[e + 1] = static_cast<std::int32_t>(d.offsets[e] + (d.counts[e] + align - 1) / align * align);
  }
  std::fill_n(d.rows, d.row_count(), -1);
  std::fill_n(d.counts, d.experts, 0);
  for (std::int64_t i = 0; i < assignments; ++i) {
    const std::int32_t e = d.expert[i], slot = d.offsets[e] + d.counts[e]++;
    d.slots[i] = slot;
    d.rows[slot] = static_cast<std::int32_t>(i / d.chosen);
  }
}

void route_forward(const Context& ctx, Out probabilities, Out lse, Out mix, Dispatch& d, In logits) {
  require_dispatch(d, "route_forward: dispatch");
  require_wide(logits, d.positions, d.experts, "route_forward: logits are not wide [N, E]");
  require_wide(probabilities, d.positions, d.experts, "route_forward: probabilities are not wide [N, E]");
  require_wide(lse, 1, d.positions, "route_forward: lse is not wide [1, N]");
  require_wide(mix, d.positions, d.chosen, "route_forward: mix is not wide [N, k]");
  kernels_of(ctx).moe.route(probabilities, lse, mix, d.expert, logits);
}

RouterSums router_sums(const Context& ctx, In probabilities, In lse, const Dispatch& d) {
  require_dispatch(d, "router_sums: dispatch");
  require_wide(probabilities, d.positions, d.experts, "router_sums: probabilities are not wide [N, E]");
  require_wide(lse, 1, d.positions, "router_sums: lse is not wide [1, N]");
  return d.positions == 0 ? RouterSums{} : kernels_of(ctx).moe.router_sums(probabilities, lse, d);
}

void route_backward(const Context& ctx, Out d_logits, In d_mix, In mix, In probabilities, In lse,
                    const Dispatch& d, double balance, double z) {
  require_dispatch(d, "route_backward: dispatch");
  require_wide(d_logits, d.positions, d.experts, "route_backward: d_logits are not wide [N, E]");
  require_wide(probabilities, d.positions, d.experts, "route_backward: probabilities are not wide [N, E]");
  require_wide(lse, 1, d.positions, "route_backward: lse is not wide [1, N]");
  require_wide(mix, d.positions, d.chosen, "route_backward: mix is not wide [N, k]");
  require_wide(d_mix, d.positions, d.chosen, "route_backward: d_mix is not wide [N, k]");
  kernels_of(ctx).moe.route_backward(d_logits, d_mix, mix, probabilities, lse, d, balance, z);
}

void dispatch_forward(const Context& ctx, Out rows, In x, const Dispatch& d) {
  require_dispatch(d, "dispatch_forward: dispatch");
  require_matrix(x, d.positions, x.cols, "dispatch_forward: x is not [N, D]");
  require_matrix(rows, d.row_count(), x.cols, "dispatch_forward: rows are not [M, D]");
  require(rows.dtype == x.dtype, "dispatch_forward: rows and x differ in dtype");
  kernels_of(ctx).moe.gather(rows, x, d);
}

void dispatch_backward(const Context& ctx, Out d_x, In d_rows, const Dispatch& d) {
  combine_forward(ctx, d_x, d_rows, In{}, d);
}

void combine_forward(const Context& ctx, Out x, In rows, In mix, const Dispatch& d) {
  require_dispatch(d, "combine_forward: dispatch");
  require_matrix(x, d.positions, x.cols, "combine_forward: x is not [N, D]");
  require_matrix(rows, d.row_count(), x.cols, "combine_forward: rows are not [M, D]");
  require_mix(mix, d, "combine_forward: mix is not wide [N, k]");
  kernels_of(ctx).moe.combine(x, rows, mix, d);
}

void combine_backward(const Context& ctx, Out d_rows, Out d_mix, In d_x, In rows, In mix, const Dispatch& d) {
  require_dispatch(d, "combine_backward: dispatch");
  require_wide(d_x, d.positions, d_x.cols, "combine_backward: d_x is not wide [N, D]");
  require_matrix(d_rows, d.row_count(), d_x.cols, "combine_backward: d_rows are not [M, D]");
  require_mix(mix, d, "combine_backward: mix is not wide [N, k]");
  require_mix(d_mix, d, "combine_backward: d_mix is not wide [N, k]");
  if (d_mix) {
    require_matrix(rows, d.row_count(), d_x.cols, "combine_backward: rows are not [M, D]");
    require(rows.dtype == d_rows.dtype, "combine_backward: rows and d_rows differ in dtype");
  }
  kernels_of(ctx).moe.combine_backward(d_rows, d_mix, d_x, rows, mix, d);
}

std::int32_t hash_expert(std::int64_t seed, std::int32_t token, std::int64_t experts) {
  require(token >= 0 && experts > 0, "hash_expert");
  // Multiply-shift of 32 random bits: the bias is below experts / 2^32.
  const std::uint64_t bits =
      Rng(static_cast<std::uint64_t>(seed), kHashStream).at(static_cast<std::uint64_t>(token)) >> 32;
  return static_cast<std::int32_t>((bits * static_cast<std::uint64_t>(experts)) >> 32);
}

}  // namespace stem
