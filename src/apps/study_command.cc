// stem study: variants trained side by side, with seeds and intervals, on one page.
#include <CLI/CLI.hpp>
#include <cmath>
#include <ctime>
#include <memory>

#include "apps/commands.h"
#include "apps/interrupt.h"
#include "apps/option_checks.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "apps/study_results.h"
#include "apps/train_plan.h"
#include "apps/train_run.h"
#include "core/error.h"
#include "core/utc.h"
#include "io/digest.h"
#include "io/file.h"
#include "report/study_report.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kResultsFile = "results.json";
constexpr const char* kPageFile = "report.html";

struct Options {
  std::string data, out, config, tokens, title = "Variants compared";
  std::vector<std::string> assignments, variants;
  std::vector<double> rates;
  std::int64_t seeds = 3;
  bool json = false, quiet = false;
};

/// A study on disk: OUT/runs/NAME are models, OUT/runs/NAME.run their runs.
class Study {
 public:
  explicit Study(const Options& o) : o_(o), out_(o.out) {
    Settings settings;
    if (!o.config.empty()) settings.load_toml(o.config);
    for (const std::string& assignment : o.assignments) settings.set(assignment);
    if (!o.tokens.empty()) {
      const double steps =
          count_from_text(o.tokens, "--tokens") / static_cast<double>(settings.train.batch.tokens_per_step);
      settings.set(fmt::format("train.steps={:.0f}", std::max(1.0, std::round(steps))));
    }
    const std::string tokenizer_json = read_file(fs::path(o.data) / kTokenizerFile);
    vocab_ = Tokenizer::from_json(tokenizer_json, (fs::path(o.data) / kTokenizerFile).string()).vocab_size();
    const TokenShard shard =
        load_shard(fs::path(o.data) / kTrainTokens, vocab_, to_hex(sha256(tokenizer_json)));
    const double distinct = distinct_in_sequence(shard, settings.train.batch.max_sequence);
    variants_ = study_variants(settings, vocab_, distinct, o.variants);
    runs_ = study_runs(variants_, o.seeds, o.rates);
    facts_ = {{"data", o.data},
              {"data_digest", to_hex(sha256_file(fs::path(o.data) / kTrainTokens))},
              {"train_tokens", shard.size()},
              {"distinct_in_sequence", distinct},
              {"vocab_size", vocab_},
              {"tokens", settings.train.steps * settings.train.batch.tokens_per_step},
              {"seeds", o.seeds},
              {"settings", settings.to_json()}};
    check_folder();
  }

  Json run(Runtime& runtime) {
    fs::create_directories(out_ / "runs");
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      one_run(runtime, i);
      outcomes_.push_back(read_outcome(runs_[i], run_directory(model_of(runs_[i]))));
      const RunOutcome& last = outcomes_.back();
      if (!o_.quiet)
        fmt::print(stderr, "{} of {}  {:<24} held-out {:.4f}  {} tokens/s{}\n", i + 1, runs_.size(),
                   last.run.name, last.loss, count_text(static_cast<std::int64_t>(last.tokens_per_s)),
                   last.diverged ? "  diverged" : "");
      write();
    }
    return results();
  }

 private:
  fs::path model_of(const StudyRun& run) const { return out_ / "runs" / run.name; }

  // Runs of another data directory would be skipped as done: a folder belongs to one.
  void check_folder() const {
    require_no_model(out_);
    const fs::path path = out_ / kResultsFile;
    if (!fs::exists(path)) return;
    const Json before = parse_json(read_file(path), path.string());
    const std::string digest = get_string(before, "data_digest", path.string());
    if (digest != facts_["data_digest"])
      fail(ErrorCode::kMismatch,
           "{}: data_digest: expected {} ({}'s), found {}: a study's folder holds one study", path.string(),
           shown(facts_["data_digest"]), o_.data, digest);
  }

  // Done, under these very settings; settings of another study in its place are an error.
  bool is_done(const StudyRun& run, const Settings& settings) const {
    const fs::path directory = run_directory(model_of(run)), path = directory / kSettingsFile;
    if (!fs::exists(path)) return false;
    const Json found = parse_json(read_file(path), path.string()), wanted = settings.to_json();
    for (const auto& [key, value] : wanted.items()) {
      if (found.is_object() && found.contains(key) && found[key] == value) continue;
      fail(ErrorCode::kMismatch,
           "{}: {}: expected {} (these settings), found {}: a study's folder holds one study", path.string(),
           key, shown(value), found.is_object() && found.contains(key) ? shown(found[key]) : "nothing");
    }
    return fs::exists(model_of(run) / kManifestName) || fs::exists(directory / kDivergedFile);
  }

  void one_run(Runtime& runtime, std::size_t i) {
    const StudyRun& run = runs_[i];
    const Settings settings = settings_of(variants_[run.variant], run);
    if (is_done(run, settings)) return;
    const fs::path model = model_of(run), directory = run_directory(model);
    const bool resume = fs::exists(directory / kCheckpoints / kLatest);
    try {
      train_run(runtime, o_.data, model, settings, resume, true);
    } catch (Interrupted& stopped) {
      stopped.message = fmt::format("stopped in {}; repeat the command to go on", run.name);
      throw;
    } catch (const Error& e) {
      // A run that cannot go on because of its numbers is a result, any other fault is not.
      if (e.code() == ErrorCode::kIo || !fs::exists(directory / kMetricsFile) ||
          !read_outcome(run, directory).diverged)
        throw;
      write_file_atomic(directory / kDivergedFile, fmt::format("{}\n", e.what()));
    }
    fs::remove_all(directory / "checkpoints");  // of a finished run; they would be most of a study's bytes
  }

  Json results() const {
    Json all = study_results(variants_, vocab_, outcomes_, static_cast<std::int64_t>(runs_.size()));
    all["title"] = o_.title;
    all["created"] = utc_text(std::time(nullptr));
    all["machine"] = machine_text();
    for (const auto& [key, value] : facts_.items()) all[key] = value;
    return all;
  }

  void write() const {
    const Json all = results();
    write_file_atomic(out_ / kResultsFile, dump_json(all));
    write_file_atomic(out_ / kPageFile, study_report(all));
  }

  static constexpr const char* kDivergedFile = "diverged.txt";
  const Options& o_;
  fs::path out_;
  std::int64_t vocab_ = 0;
  std::vector<StudyVariant> variants_;
  std::vector<StudyRun> runs_;
  std::vector<RunOutcome> outcomes_;
  Json facts_;
};

void run_study(const Options& o) {
  Runtime runtime;
  Study study(o);
  const Json results = study.run(runtime);
  if (o.json)
    fmt::print("{}", dump_json(results));
  else
    fmt::print("{}\n", (fs::path(o.out) / kPageFile).string());
}

}  // namespace

void add_study_command(CLI::App& app) {
  CLI::App* study = app.add_subcommand("study", "several trainings, compared with intervals on one page");
  study->require_subcommand(1);
  auto o = std::make_shared<Options>();
  CLI::App* command = study->add_subcommand("variants",
                                            "dense, mixtures of experts and the STEM variants at equal "
                                            "tokens, over seeds; goes on where it stopped");
  command->footer(Settings::help());
  command->add_option("data", o->data, "data directory (stem data)")->required();
  command->add_option("-o,--out", o->out, "folder for runs, results.json and report.html")->required();
  command->add_option("--config", o->config, "TOML settings (configs/study.toml)");
  command->add_option("--set", o->assignments, "a setting, key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--tokens", o->tokens, "tokens of each run, such as 1M (default: train.steps)");
  command->add_option("--seeds", o->seeds, "runs of each variant, with seeds 1, 2, …")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command
      ->add_option(
          "--variants", o->variants,
          fmt::format("which, separated by commas (default: {})", fmt::join(study_variant_names(), ",")))
      ->delimiter(',');
  command->add_option("--lr", o->rates, "stability: one more run of each variant at these learning rates")
      ->delimiter(',')
      ->check(number_in(1e-8, 10.0));
  command->add_option("--title", o->title, "of the page")->capture_default_str();
  command->add_flag("--quiet", o->quiet, "no line for each run");
  command->add_flag("--json", o->json, "the results as JSON");
  command->callback([o] { run_study(*o); });
}

}  // namespace stem
