// How the next token is drawn, on the command line.
#pragma once

#include "generate/sampler.h"

namespace CLI {
class App;
}

namespace stem {

/// --temperature, --top-k, --top-p, --min-p, penalties, --seed; defaults are what `options` holds.
void add_sampling_options(CLI::App& command, SamplingOptions& options);

}  // namespace stem
