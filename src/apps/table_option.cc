#include "apps/table_option.h"

#include <CLI/CLI.hpp>

#include "apps/progress.h"
#include "core/error.h"

namespace stem {
namespace {
double each(std::int64_t value, std::int64_t tokens) {
  return static_cast<double>(value) / static_cast<double>(tokens);
}
}  // namespace

void add_table_option(CLI::App& command, LoadOptions& options) {
  command
      .add_option_function<std::string>(
          "--table",
          [&options](const std::string& text) {
            try {
              options.table.placement = placement_from(text);
            } catch (const Error&) {
              fail(ErrorCode::kUsage,
                   "--table: expected memory, mapped or disk:BUDGET, a BUDGET of 1 byte or more (67108864, "
                   "64M, 2G), found \"{}\"",
                   text);
            }
          },
          "where the table lies: memory, mapped (default), or disk:BUDGET, read as needed with a cache of "
          "BUDGET bytes (disk:64M)")
      ->type_name("PLACE");
}

Json table_figures(const TableStats& s, std::int64_t tokens) {
  return {{"asked", s.asked},
          {"distinct", s.distinct},
          {"hits", s.hits},
          {"misses", s.misses},
          {"hit_rate", s.hit_rate()},
          {"bytes_per_token", each(s.bytes_read, tokens)},
          {"reads_per_token", each(s.reads, tokens)},
          {"stall_us_per_token", each(s.stall_us, tokens)},
          {"prefetched_used", s.prefetched_used},
          {"prefetched_unused", s.prefetched_unused},
          {"most_in_flight", s.most_in_flight}};
}

std::string table_figures_text(const TableStats& s, std::int64_t tokens) {
  return fmt::format("{:.1f} % of {} records hit; a token reads {} and waits {:.1f} us", 100 * s.hit_rate(),
                     count_text(s.distinct), bytes_text(each(s.bytes_read, tokens)),
                     each(s.stall_us, tokens));
}

}  // namespace stem
