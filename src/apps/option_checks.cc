#include "apps/option_checks.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>
#include <string>

namespace stem {
namespace {

template <class Number>
bool reads(const std::string& text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

CLI::Validator number_in(double min, double max) {
  const std::string range = fmt::format("[{}, {}]", min, max);
  return {[=](std::string& text) {
            double value = 0;
            const bool inside = reads(text, value) && value >= min && value <= max;
            return inside ? std::string() : fmt::format("expected a number in {}, found \"{}\"", range, text);
          },
          "in " + range};
}

CLI::Validator is_seed() {
  return {[](std::string& text) {
            std::uint64_t value = 0;
            return reads(text, value) ? std::string()
                                      : fmt::format("expected a whole number in [0, {}], found \"{}\"",
                                                    std::numeric_limits<std::uint64_t>::max(), text);
          },
          ""};
}

CLI::Validator not_empty() {
  return {[](std::string& text) {
            return text.empty() ? std::string("expected a name or value, found \"\"") : std::string();
          },
          ""};
}

}  // namespace stem
