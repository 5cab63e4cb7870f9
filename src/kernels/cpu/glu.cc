// The gated products h = SiLU(a) ⊙ b of every FFN variant, from one forward and one backward loop:
//
//   swiglu         a = gate   b = up            stem_gate       a = row    b = up
//   stem           a = gate   b = row           stem_additive   a = gate   b = up + row
//
//   d_b = d_h ⊙ s,   d_a = d_h ⊙ b ⊙ (σ(a) + s ⊙ (1 − σ(a)))
#include "kernels/cpu/families.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/glu.cc"
#include "hwy/foreach_target.h"
#include "kernels/cpu/rows-inl.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace stem::cpu::HWY_NAMESPACE {
namespace {

enum class Variant { swiglu, stem, stem_gate, stem_additive };

constexpr bool reads_gate(Variant v) {
  return v != Variant::stem_gate;
}
constexpr bool reads_up(Variant v) {
  return v != Variant::stem;
}
constexpr bool reads_row(Variant v) {
  return v != Variant::swiglu;
}

/// One chunk of one position. Pointers of operands that the variant lacks are null and never read.
template <class T>
struct Operands {
  const T* gate;
  const T* up;
  const float* row;
};

template <Variant kVariant, class T, class P>
HWY_INLINE void read_factors(const Operands<T>& in, std::int64_t i, P part, Vec& a, Vec& b) {
  if constexpr (kVariant == Variant::stem_gate) {
    a = load(in.row + i, part);
    b = load(in.up + i, part);
  } else {
    a = load(in.gate + i, part);
    if constexpr (kVariant == Variant::swiglu) b = load(in.up + i, part);
    if constexpr (kVariant == Variant::stem) b = load(in.row + i, part);
    if constexpr (kVariant == Variant::stem_additive)
      b = hn::Add(load(in.up + i, part), load(in.row + i, part));
  }
}

template <Variant kVariant, class T>
void forward_chunk(T* h, const Operands<T>& in, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    Vec a, b;
    read_factors<kVariant>(in, i, part, a, b);
    store(hn::Mul(hn::Mul(a, sigmoid(a)), b), h + i, part);
  });
}

/// d_gate, d_up and d_row may be null: not wanted. They may be the memory of gate and up.
template <Variant kVariant, class T>
void backward_chunk(T* d_gate, T* d_up, float* d_row, const T* d_h, const Operands<T>& in,
                    std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto part) HWY_ATTR {
    Vec a, b;
    read_factors<kVariant>(in, i, part, a, b);
    const Vec d = load(d_h + i, part);
    const Vec sigma = sigmoid(a);
    const Vec s = hn::Mul(a, sigma);
    const Vec d_b = hn::Mul(d, s);
    const Vec slope = hn::MulAdd(s, hn::Sub(set(1.0f), sigma), sigma);
    const Vec d_a = hn::Mul(hn::Mul(d, b), slope);
    if constexpr (reads_gate(kVariant)) {
      if (d_gate != nullptr) store(d_a, d_gate + i, part);
    }
    if constexpr (reads_up(kVariant)) {
      if (d_up != nullptr) store(d_b, d_up + i, part);
    }
    if constexpr (reads_row(kVariant)) {
      const Vec change = kVariant == Variant::stem_gate ? d_a : d_b;
      if (d_row != nullptr) store(hn::Add(load(d_row + i, part), change), d_row + i, part);
    }
  });
}

/// Every tensor of a call; matrices that the variant lacks are null views.
struct Call {
  In gate, up;
  const RowPointers* rows = nullptr;
};

template <Variant kVariant, class T>
Operands<T> operands_at(const Call& in, std::int64_t n, std::int64_t first, std::int64_t count,
                        float* buffer) {
  Operands<T> out{nullptr, nullptr, nullptr};
  if constexpr (reads_gate(kVariant)) out.gate = in.gate.row<T>(n) + first;
  if constexpr (reads_up(kVariant)) out.up = in.up.row<T>(n) + first;
  if constexpr (reads_row(kVariant)) out.row = row_values(in.rows->at[n], first, count, buffer);
  return out;
}

template <Variant kVariant>
void forward(Out h, const Call& in) {
  with_type(h.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
#pragma omp parallel for schedule(static) if (h.size() > kParallelElements)
    for (std::int64_t n = 0; n < h.rows; ++n) {
      alignas(64) float buffer[kRowChunk];
      for (std::int64_t first = 0; first < h.cols; first += kRowChunk) {
        const std::int64_t count = std::min(kRowChunk, h.cols - first);
        forward_chunk<kVariant, T>(h.row<T>(n) + first, operands_at<kVariant, T>(in, n, first, count, buffer),
                                   count);
      }
    }
  });
}

template <Variant kVariant, class T>
void backward_position(Out d_gate, Out d_up, float* d_row, In d_h, const Call& in, std::int64_t n) {
  alignas(64) float buffer[kRowChunk];
  for (std::int64_t first = 0; first < d_h.cols; first += kRowChunk) {
    const std::int64_t count = std::min(kRowChunk, d_h.cols - first);
    const auto operands = operands_at<kVariant, T>(in, n, first, count, buffer);
    backward_chunk<kVariant, T>(
        d_gate ? d_gate.row<T>(n) + first : nullptr, d_up ? d_up.row<T>(n) + first : nullptr,
        d_row == nullptr ? nullptr : d_row + first, d_h.row<T>(n) + first, operands, count);
  }
}

template <Variant kVariant, class T>
void backward_positions(Out d_gate, Out d_up, In d_h, const Call& in) {
#pragma omp parallel for schedule(static) if (d_h.size() > kParallelElements)
  for (std::int64_t n = 0; n < d_h.rows; ++n) {
    backward_position<kVariant, T>(d_gate, d_up, nullptr, d_h, in, n);
  }
}

/// One thread sums all positions of a token, so the order is that of the positions. d_gate and d_up on the
/// way.
template <Variant kVariant, class T>
void backward_groups(Out d_gate, Out d_up, const RowGradients& d_rows, In d_h, const Call& in) {
#pragma omp parallel for schedule(dynamic, 8) if (d_h.size() > kParallelElements)
  for (std::int64_t r = 0; r < d_rows.distinct; ++r) {
    float* const d_row = static_cast<float*>(d_rows.grads) + r * d_rows.stride;
    for (std::int32_t p = d_rows.offsets[r]; p < d_rows.offsets[r + 1]; ++p) {
      backward_position<kVariant, T>(d_gate, d_up, d_row, d_h, in, d_rows.positions[p]);
    }
  }
}

template <Variant kVariant>
void backward(Out d_gate, Out d_up, const RowGradients* d_rows, In d_h, const Call& in) {
  with_type(d_h.dtype, [&](auto* type) {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(type)>>;
    if (d_rows == nullptr || d_rows->distinct == 0)
      return backward_positions<kVariant, T>(d_gate, d_up, d_h, in);
    require(d_rows->dtype == DType::f32, "row gradients are f32");
    if (d_rows->offsets[d_rows->distinct] ==
        d_h.rows) {  // the groups hold every position: one pass does it all
      return backward_groups<kVariant, T>(d_gate, d_up, *d_rows, d_h, in);
    }
    // Rows first: d_gate and d_up may overwrite gate and up.
    backward_groups<kVariant, T>({}, {}, *d_rows, d_h, in);
    backward_positions<kVariant, T>(d_gate, d_up, d_h, in);
  });
}

void swiglu_forward(Out h, In gate, In up) {
  forward<Variant::swiglu>(h, {gate, up, nullptr});
}
void swiglu_backward(Out d_gate, Out d_up, In d_h, In gate, In up) {
  backward<Variant::swiglu>(d_gate, d_up, nullptr, d_h, {gate, up, nullptr});
}
void stem_forward(Out h, In gate, const RowPointers& rows) {
  forward<Variant::stem>(h, {gate, {}, &rows});
}
void stem_backward(Out d_gate, const RowGradients& d_rows, In d_h, In gate, const RowPointers& rows) {
  backward<Variant::stem>(d_gate, {}, &d_rows, d_h, {gate, {}, &rows});
}
void stem_gate_forward(Out h, In up, const RowPointers& rows) {
  forward<Variant::stem_gate>(h, {{}, up, &rows});
}
void stem_gate_backward(Out d_up, const RowGradients& d_rows, In d_h, In up, const RowPointers& rows) {
  backward<Variant::stem_gate>({}, d_up, &d_rows, d_h, {{}, up, &rows});
}
void stem_additive_forward(Out h, In gate, In up, const RowPointers& rows) {
  forward<Variant::stem_additive>(h, {gate, up, &rows});
}
void stem_additive_backward(Out d_gate, Out d_up, const RowGradients& d_rows, In d_h, In gate, In up,
                            const RowPointers& rows) {
  backward<Variant::stem_additive>(d_gate, d_up, &d_rows, d_h, {gate, up, &rows});
}

}  // namespace

GluKernels glu_kernels() {
  return {swiglu_forward,    swiglu_backward,    stem_forward,          stem_backward,
          stem_gate_forward, stem_gate_backward, stem_additive_forward, stem_additive_backward};
}

}  // namespace stem::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stem::cpu {
HWY_EXPORT(glu_kernels);
GluKernels glu_kernels() {
  return HWY_DYNAMIC_DISPATCH(glu_kernels)();
}
}  // namespace stem::cpu
#endif
