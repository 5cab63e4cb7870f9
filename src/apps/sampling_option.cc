#include "apps/sampling_option.h"

#include <CLI/CLI.hpp>

#include "apps/option_checks.h"

namespace stem {

void add_sampling_options(CLI::App& command, SamplingOptions& options) {
  command.add_option("--temperature", options.temperature, "0: the likeliest token every time")
      ->check(number_in(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", options.top_k, "draw among the K likeliest tokens; 0: all")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command.add_option("--top-p", options.top_p, "draw among the likeliest tokens that reach this probability")
      ->check(number_in(1e-6, 1.0))
      ->capture_default_str();
  command.add_option("--min-p", options.min_p, "leave out tokens below this share of the likeliest one's")
      ->check(number_in(0.0, 1.0))
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", options.repetition_penalty,
                  "divides the logits of tokens seen before; 1: none")
      ->check(number_in(0.01, 100.0))
      ->capture_default_str();
  command
      .add_option("--presence-penalty", options.presence_penalty,
                  "taken off the logits of tokens of the answer")
      ->check(number_in(-100.0, 100.0))
      ->capture_default_str();
  command.add_option("--frequency-penalty", options.frequency_penalty, "… for each time that it has them")
      ->check(number_in(-100.0, 100.0))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "seed of the draws")->check(is_seed())->capture_default_str();
}

}  // namespace stem
