// Matrix products on the tile unit of a CPU (Intel AMX), bf16 inputs with f32 accumulation.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/kernels.h"

namespace stem::cpu {

/// Whether this CPU has AMX-BF16 and the system lets this process use it (asked once).
bool amx_supported();

/// c = add + op(a) · op(b); a null `add` is zeros; a and b bf16, c and add bf16 or f32. Any shape and stride.
/// Each element of c has one summation order, whatever the number of threads. `packed`, when given, is what
/// amx_pack made of b.
void amx_gemm(Out c, In a, bool transpose_a, In b, bool transpose_b, In add, const void* packed = nullptr);

/// Independent products in one go: threads share all of them, first the packing, then the multiplying.
void amx_gemm_group(std::span<const GemmCall> calls);

/// Bytes of the packed form of op(b) [K, N]: tiles of 32 × 32 in the order in which amx_gemm reads them,
/// zero-padded.
std::size_t amx_packed_bytes(In b, bool transpose_b);
/// Packs op(b) into `to`, 64-byte aligned.
void amx_pack(void* to, In b, bool transpose_b);

/// Where value (k, n) of op(b) [K, N] lies in the packed form, in values of bf16.
std::int64_t amx_packed_index(std::int64_t depth, std::int64_t n, std::int64_t k);

/// y [M, N] (+)= x [M, K] · wᵀ for f32 x, rounded to bf16, and packed w [N, K]: the bits of amx_gemm, and for
/// few rows at the speed at which w comes from memory.
void amx_linear(Out y, In x, const void* packed, std::int64_t outs, bool accumulate);

}  // namespace stem::cpu
