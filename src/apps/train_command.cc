// stem train: a data directory in, a model directory out.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "apps/train_run.h"
#include "core/error.h"

namespace stem {
namespace {

struct Options {
  std::string data, out, config, from, teacher, on_spike;
  std::vector<std::string> assignments;
  bool resume = false, replace = false, json = false, quiet = false;
};

// Without --resume a run starts anew and takes the place of what is there under its name.
void require_new(const std::filesystem::path& model) {
  require_new_model(model);
  const std::filesystem::path run = run_directory(model), latest = run / kCheckpoints / kLatest;
  if (!std::filesystem::is_symlink(std::filesystem::symlink_status(latest))) return;
  fail(ErrorCode::kUsage,
       "{}: expected no checkpoints of an earlier run, found {}: go on with it (stem resume {}), or say "
       "--replace to train anew",
       run.string(), std::filesystem::read_symlink(latest).string(), model.string());
}

void run_train(const Options& o) {
  Settings settings;
  if (!o.config.empty()) settings.load_toml(o.config);
  for (const std::string& assignment : o.assignments) settings.set(assignment);
  if (!o.teacher.empty()) settings.set("train.teacher=" + o.teacher);
  if (!o.on_spike.empty()) settings.set("train.on_spike=" + o.on_spike);
  if (!o.resume && !o.replace) require_new(o.out);
  Runtime runtime;
  const TrainSummary s = train_run(runtime, o.data, o.out, settings, {o.resume, o.quiet || o.json, o.from});
  print_training(o.out, settings, s, o.json);
}

}  // namespace

void print_training(const std::filesystem::path& model, const Settings& settings, const TrainSummary& s,
                    bool as_json) {
  const double validation = s.validation.empty() ? 0.0 : s.validation.back().second;
  if (as_json) {
    fmt::print("{}", dump_json({{"model", model.string()},
                                {"uuid", uuid_text(s.manifest.uuid)},
                                {"steps", settings.train.steps},
                                {"tokens", s.tokens},
                                {"seconds", s.seconds},
                                {"tokens_per_s", s.tokens_per_second},
                                {"gemm_dtype", name_of(s.precision.narrow)},
                                {"validation_loss", validation}}));
    return;
  }
  if (s.steps.empty()) {
    fmt::print("{}: nothing left to do, all {} steps were made; validation loss {:.4f}\n", model.string(),
               count_text(settings.train.steps), validation);
    return;
  }
  fmt::print("{}: {} tokens in {} ({} tokens/s, {} products), validation loss {:.4f}\n", model.string(),
             count_text(s.tokens), duration_text(s.seconds),
             count_text(static_cast<std::int64_t>(s.tokens_per_second)), name_of(s.precision.narrow),
             validation);
}

void add_train_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "train a model on a data directory");
  command->footer(Settings::help() +
                  "On SIGINT or SIGTERM the step in hand is finished and saved; exit code 130 or 143.\n");
  command->add_option("data", o->data, "data directory (stem data)")->required();
  command->add_option("-o,--out", o->out, "model directory to write")->required();
  command->add_option("--config", o->config, "TOML settings");
  command->add_option("--set", o->assignments, "a setting, key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--from", o->from, "model to start from; its tokenizer must be the data's");
  command->add_option("--teacher", o->teacher,
                      "model to learn from: its predictions take the place of the text's (train.teacher)");
  command->add_option("--on-spike", o->on_spike, "continue, stop, skip or rollback (train.on_spike)");
  command->add_flag("--resume", o->resume, "continue from the run's latest checkpoint");
  command
      ->add_flag("--replace", o->replace,
                 "train anew in place of a model, or of a run's checkpoints, of this name")
      ->excludes("--resume");
  command->add_flag("--quiet", o->quiet, "no progress bar");
  command->add_flag("--json", o->json, "figures as JSON, no progress");
  command->callback([o] { run_train(*o); });
}

}  // namespace stem
