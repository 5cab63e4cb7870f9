// stem atlas: the demonstration. Corpus, tokenizer, training, then eight looks at the trained model, told as
// a person would want to read them, and a report.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "apps/atlas_demo.h"
#include "apps/commands.h"
#include "apps/data_command.h"
#include "apps/progress.h"
#include "core/clock.h"
#include "core/utc.h"
#include "io/file.h"
#include "report/atlas_report.h"

namespace stem {
namespace {

struct Options {
  std::string out = "out/atlas", source, config;
  std::vector<std::string> assignments;
  bool keep = false, json = false, quiet = false;
};

Json training_json(const TrainSummary& s) {
  Json steps = Json::array(), loss = Json::array(), eval_steps = Json::array(), eval_loss = Json::array();
  for (const StepReport& r : s.steps) {
    steps.push_back(r.step);
    loss.push_back(r.loss);
  }
  for (const auto& [step, value] : s.validation) {
    eval_steps.push_back(step);
    eval_loss.push_back(value);
  }
  const double validation = s.validation.empty() ? 0.0 : s.validation.back().second;
  return {{"steps", steps},
          {"loss", loss},
          {"eval_steps", eval_steps},
          {"eval_loss", eval_loss},
          {"tokens", s.tokens},
          {"seconds", s.seconds},
          {"tokens_per_s", s.tokens_per_second},
          {"validation_loss", validation},
          {"validation_perplexity", std::exp(validation)},
          {"gemm_dtype", name_of(s.precision.narrow)}};
}

void run_atlas(const Options& o) {
  const auto start = std::chrono::steady_clock::now();
  Settings settings;
  settings.load_toml(o.config.empty() ? find_share("configs/atlas.toml") : std::filesystem::path(o.config));
  for (const std::string& assignment : o.assignments) settings.set(assignment);
  settings.resolve_model(settings.tokenizer_vocab);  // a wrong shape is told before any work is done
  const std::filesystem::path model_dir = o.out, run = run_directory(model_dir), data = run / "data";
  Runtime runtime;
  DemoTelling tell(o.quiet || o.json);
  Json results{{"title", "Atlas: from text to brain surgery"},
               {"created", utc_text(std::time(nullptr))},
               {"machine", machine_text()},
               {"command", "stem atlas " + o.out}};

  tell.heading("The corpus");
  const DataSummary d = write_atlas_data(data, find_share("data/atlas", o.source), settings);
  tell.line("{} documents, {} tokens, a vocabulary of {} tokens trained on them ({})",
            count_text(d.train_documents), count_text(d.train_tokens), count_text(d.vocab), data.string());

  tell.heading("Training");
  const ModelConfig config = settings.resolve_model(d.vocab);
  if (!config.has_table()) {
    fail(ErrorCode::kUsage,
         "model.variant: expected one with a STEM table (the demonstration edits rows), found {}",
         name_of(config.variant));
  }
  const Accounting a = account(config);
  tell.line(
      "{} layers of width {}; in layers {} the up-projection is deleted and each token reads its own row of "
      "{} values instead.",
      config.layers, config.width, fmt::format("{}", fmt::join(config.stem_layers, ", ")), config.ffn);
  tell.line("{} dense parameters, {} in the table; a token switches on {}.", count_text(a.dense_parameters),
            count_text(a.table_parameters), count_text(config.table_shape().record()));
  const TrainSummary s = train_run(runtime, data, model_dir, settings, false, o.quiet || o.json);
  results["training"] = training_json(s);
  tell.line("{} tokens in {}: {} tokens/s, validation loss {:.3f}; saved to {}", count_text(s.tokens),
            duration_text(s.seconds), count_text(static_cast<std::int64_t>(s.tokens_per_second)),
            results["training"]["validation_loss"].get<double>(), o.out);

  AtlasDemo demo(runtime, model_dir, data, run, settings, tell, o.quiet || o.json);
  results["model"] = demo.model_json();
  results["where"] = demo.where();
  results["swap"] = demo.swap();
  results["blend"] = demo.blend();
  results["patch"] = demo.flat_earth();
  results["attack"] = demo.attack();
  results["ablation"] = demo.ablation();
  results["score"] = demo.score();
  results["cosines"] = demo.cosines();

  const std::filesystem::path page = run / "report.html", figures = run / "results.json";
  write_file_atomic(figures, dump_json(results));
  write_file_atomic(page, atlas_report(results));
  const double seconds = seconds_since(start);
  if (o.json) return fmt::print("{}", dump_json(results));
  tell.heading("Done");
  tell.line("Everything above in {}. Model: {}; figures: {}; the page:", duration_text(seconds), o.out,
            figures.string());
  fmt::print("{}\n", std::filesystem::absolute(page).lexically_normal().string());
}

}  // namespace

void add_atlas_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "atlas", "the demonstration: train a small model on a world of facts, then operate on it");
  command->footer(Settings::help());
  command->add_option("out", o->out, "model directory to write; everything else goes to OUT.run")
      ->capture_default_str();
  command->add_option("--source", o->source, "folder with tables and templates (default: data/atlas)");
  command->add_option("--config", o->config, "TOML settings (default: configs/atlas.toml)");
  command->add_option("--set", o->assignments, "a setting, key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--quiet", o->quiet, "only the path of the report");
  command->add_flag("--json", o->json, "all figures as JSON");
  command->callback([o] { run_atlas(*o); });
}

}  // namespace stem
