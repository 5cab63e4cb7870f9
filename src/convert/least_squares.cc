#include "convert/least_squares.h"

#include <Eigen/Dense>

#include "core/error.h"

namespace stem {
namespace {

using Values = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Eigen::Map<const Values, 0, Eigen::OuterStride<>> values_of(const In& m) {
  return {m.row<float>(0), m.rows, m.cols, Eigen::OuterStride<>(m.stride)};
}

}  // namespace

void solve_ridge(Out x, In a, In b, double lambda) {
  require(a.rows == a.cols && b.rows == a.rows && same_shape(x, b), "solve_ridge: shapes");
  if (b.size() == 0) return;
  Eigen::MatrixXd equations = values_of(a).cast<double>();
  equations.diagonal().array() += lambda * equations.diagonal().mean();
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factors(equations);  // in place
  if (factors.info() != Eigen::Success)
    fail(ErrorCode::kMismatch, "least squares of {} unknowns: expected equations that determine them",
         a.rows);
  const Eigen::MatrixXd solution = factors.solve(values_of(b).cast<double>().eval());
  Eigen::Map<Values, 0, Eigen::OuterStride<>>(x.row<float>(0), x.rows, x.cols,
                                              Eigen::OuterStride<>(x.stride)) = solution.cast<float>();
}

}  // namespace stem
