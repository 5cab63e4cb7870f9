// Checks of values on the command line that CLI11's own let through.
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

/// Not "": what a script passes where its variable is not set, and would read as an option not given.
CLI::Validator not_empty();

}  // namespace stem
