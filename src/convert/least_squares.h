// Small dense least squares: normal equations with a ridge.
#pragma once

#include "core/view.h"

namespace stem {

/// x [n, m] with (a + λ·ā·I) x = b: a [n, n] symmetric (its lower half is read), ā the mean of its diagonal,
/// b [n, m]; all f32, computed in f64. x may be b. Throws kMismatch when a is not positive definite even so.
/// Cost n³/3 + 2·n²·m multiplications; memory 8·(n² + n·m) bytes.
void solve_ridge(Out x, In a, In b, double lambda);

}  // namespace stem
