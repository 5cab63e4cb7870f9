// Which instruction sets the SIMD kernels are compiled for. Include before hwy/foreach_target.h.
//
// Three on x86: SSE2 (the baseline), AVX2 and AVX-512. What the others add (AVX3_DL: VNNI, VBMI) these
// kernels do not use. Scalable vectors are out: the kernels hold vectors in arrays.
#pragma once

#include "hwy/detect_targets.h"

#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
