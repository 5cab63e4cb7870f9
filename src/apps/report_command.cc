// stem report: training runs on one HTML page.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/model_directory.h"
#include "apps/run_files.h"
#include "apps/run_log.h"
#include "io/file.h"

namespace stem {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out = "report.html";
};

}  // namespace

void add_report_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "training runs compared on one HTML page");
  command->add_option("run", o->runs, "run or model directories; differences are from the first")->required();
  command->add_option("-o,--out", o->out, "page to write")->capture_default_str();
  command->callback([o] {
    require_page_place(o->out);
    std::vector<RunLog> logs;
    for (const std::string& run : o->runs) logs.push_back(read_run_log(run));
    name_apart(logs);
    write_file_atomic(o->out, run_report(logs));
    fmt::print("{}\n", o->out);
  });
}

}  // namespace stem
