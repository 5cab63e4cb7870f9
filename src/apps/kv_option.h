// --kv: what a command's model keeps keys and values in.
#pragma once

#include "apps/model_directory.h"

namespace CLI {
class App;
}

namespace stem {

/// Adds --kv f32 | bf16 | int8 to `command`; it sets options.kv, which must outlive the parsing. Other text
/// is a usage error.
void add_kv_option(CLI::App& command, LoadOptions& options);

}  // namespace stem
