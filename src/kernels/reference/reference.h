// The oracle: plain loops in double, any mix of f64, f32 and bf16 views. The whole model runs on it.
#pragma once

#include "kernels/kernels.h"

namespace stem {

const Kernels& reference_kernels();

}  // namespace stem
