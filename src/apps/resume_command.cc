// stem resume: a training run goes on from its latest checkpoint with its own settings and data.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/run_files.h"
#include "apps/train_run.h"

namespace stem {
namespace {

struct Options {
  std::string run, data, on_spike;
  std::vector<std::string> assignments;
  bool json = false, quiet = false;
};

void run_resume(const Options& o) {
  const RunPaths paths = find_run(o.run);
  Settings settings;
  settings.load_json(paths.run / kSettingsFile);
  for (const std::string& assignment : o.assignments) settings.set(assignment);
  if (!o.on_spike.empty()) settings.set("train.on_spike=" + o.on_spike);
  const std::filesystem::path data =
      o.data.empty() ? read_run_record(paths.run).data : std::filesystem::path(o.data);
  Runtime runtime;
  const TrainSummary s = train_run(runtime, data, paths.model, settings, {true, o.quiet || o.json, {}});
  print_training(paths.model, settings, s, o.json);
}

}  // namespace

void add_resume_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("resume", "go on with a training run, bit for bit");
  command->footer(
      "What the run's numbers depend on (shape, data, schedule, seeds) cannot be set to something else.\n");
  command->add_option("run", o->run, "run directory, or the model directory beside it")->required();
  command->add_option("--data", o->data, "data directory, where it has moved");
  command->add_option("--set", o->assignments, "a setting, key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--on-spike", o->on_spike, "continue, stop, skip or rollback (train.on_spike)");
  command->add_flag("--quiet", o->quiet, "no progress bar");
  command->add_flag("--json", o->json, "figures as JSON, no progress");
  command->callback([o] { run_resume(*o); });
}

}  // namespace stem
