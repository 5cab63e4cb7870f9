// --table: where a command's model keeps its table.
#pragma once

#include <string>

#include "apps/model_directory.h"

namespace CLI {
class App;
}

namespace stem {

/// Adds --table memory | mapped | disk:BUDGET to `command`; it sets options.table.placement, which must
/// outlive the parsing. Other text is a usage error.
void add_table_option(CLI::App& command, LoadOptions& options);

/// What a placed table did for `tokens` tokens, as JSON: hit_rate, distinct, bytes_per_token,
/// stall_us_per_token …
Json table_figures(const TableStats& stats, std::int64_t tokens);
/// The same for people: "91.2 % hits, 12.3 kB and 4.5 µs of waiting a token".
std::string table_figures_text(const TableStats& stats, std::int64_t tokens);

}  // namespace stem
