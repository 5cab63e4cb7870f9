// Which instruction sets the SIMD kernels are compiled for. Include before any header of Highway.
//
// On x86: SSE4, AVX2 and AVX-512, besides the scalar baseline that Highway always adds. What lies between
// (SSSE3) or above (AVX3_DL: VNNI, VBMI) gains these kernels nothing. Scalable vectors are out: the kernels
// hold vectors in arrays.
#pragma once

#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
