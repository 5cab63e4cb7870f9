// Checks of numbers on the command line that CLI11's own let through.
#pragma once

#include <cstdint>

namespace CLI {
class Validator;
}

namespace stem {

/// A number in [min, max]; NaN is in no range.
CLI::Validator number_in(double min, double max);

/// A seed: a whole number that 64 bits hold, without a sign.
CLI::Validator is_seed();

}  // namespace stem
