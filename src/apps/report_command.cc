// stem report: training runs on one HTML page.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/model_directory.h"
#include "io/file.h"
#include "report/run_report.h"

namespace stem {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out = "report.html";
};

RunLog read_run(const std::filesystem::path& given) {
  // The run directory itself, or the model directory that it belongs to.
  const std::filesystem::path run =
      std::filesystem::exists(given / "metrics.jsonl") ? given : run_directory(given);
  if (!std::filesystem::exists(run / "metrics.jsonl")) {
    fail(ErrorCode::kNotFound,
         "{}: expected a training run (metrics.jsonl) or the model that one made, found neither",
         given.string());
  }
  RunLog log;
  log.name = given.string();
  const std::string settings = (run / "settings.json").string(), metrics = (run / "metrics.jsonl").string();
  log.config = parse_json(read_file(settings), settings);
  std::string_view rest;
  const std::string text = read_file(metrics);
  rest = text;
  for (int line = 1; !rest.empty(); ++line) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    if (end > 0)
      log.metrics.push_back(parse_json(rest.substr(0, end), fmt::format("{}: line {}", metrics, line)));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return log;
}

}  // namespace

void add_report_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("report", "training runs compared on one HTML page");
  command->add_option("run", o->runs, "run or model directories")->required();
  command->add_option("-o,--out", o->out, "page to write")->capture_default_str();
  command->callback([o] {
    std::vector<RunLog> logs;
    for (const std::string& run : o->runs) logs.push_back(read_run(run));
    write_file_atomic(o->out, run_report(logs));
    fmt::print("{}\n", o->out);
  });
}

}  // namespace stem
