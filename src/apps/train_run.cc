#include "apps/train_run.h"

#include <algorithm>
#include <fstream>

#include "apps/progress.h"
#include "io/digest.h"
#include "io/file.h"

namespace stem {
namespace {

constexpr const char* kMetricsFile = "metrics.jsonl";
constexpr const char* kSettingsFile = "settings.json";
constexpr const char* kLatest = "latest";

std::vector<std::int64_t> frequencies(const TokenShard& shard, std::int64_t vocab) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(vocab), 0);
  for (const std::int32_t token : shard.tokens) ++counts[static_cast<std::size_t>(token)];
  return counts;
}

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("step-{:08}", step);
}

// Removes all but the newest `keep` checkpoints; names sort by step.
void prune(const std::filesystem::path& folder, std::int64_t keep) {
  std::vector<std::filesystem::path> all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_directory() && !entry.is_symlink() &&
        entry.path().filename().string().starts_with("step-") && entry.path().extension().empty())
      all.push_back(entry.path());
  }
  std::sort(all.begin(), all.end());
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i)
    std::filesystem::remove_all(all[i]);
}

// What runs that were killed while saving left behind: their own destructors never ran.
void remove_unfinished(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && !entry.is_symlink() && name.starts_with("step-") &&
        name.find(".partial-") != std::string::npos)
      std::filesystem::remove_all(entry.path());
  }
}

// Keeps the metrics of steps that the checkpoint has seen; a killed run may have logged more, and its last
// line may be torn.
void truncate_metrics(const std::filesystem::path& path, std::int64_t last_step) {
  if (!std::filesystem::exists(path)) return;
  std::string kept;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line) && !in.eof();) {  // eof: no newline, so not a whole line
    const Json row = parse_json(line, path.string());
    if (get_int(row, "step", path.string()) <= last_step) kept += line + "\n";
  }
  write_file_atomic(path, kept);
}

}  // namespace

TrainSummary train_run(Runtime& runtime, const std::filesystem::path& data,
                       const std::filesystem::path& model_directory, const Settings& settings, bool resume,
                       bool quiet) {
  const std::string tokenizer_json = read_file(data / kTokenizerFile);
  const Tokenizer tokenizer = Tokenizer::from_json(tokenizer_json, (data / kTokenizerFile).string());
  const ModelConfig config = settings.resolve_model(tokenizer.vocab_size());
  const std::string digest = to_hex(sha256(tokenizer_json));
  const TokenShard shard = load_shard(data / kTrainTokens, config.vocab, digest);
  const TokenShard held_out = load_shard(data / kHeldOutTokens, config.vocab, digest);
  const std::filesystem::path run = run_directory(model_directory), checkpoints = run / "checkpoints";
  {
    const StagedDirectory probe(model_directory);
  }  // a target that must not be replaced is told before the work, not after
  if (!resume) std::filesystem::remove_all(checkpoints);  // another run's steps would outlive this one's
  std::filesystem::create_directories(checkpoints);

  TrainSummary summary;
  remove_unfinished(checkpoints);
  summary.precision = training_precision(settings.precision, config, settings.train.batch.tokens_per_step);
  const Context context = runtime.training();
  Manifest draft;
  draft.uuid = random_uuid();
  Model model;
  if (resume) {
    const auto latest = checkpoints / kLatest;
    if (!std::filesystem::exists(latest)) {
      fail(ErrorCode::kNotFound, "{}: expected a checkpoint to resume from, found none", latest.string());
    }
    const std::filesystem::path checkpoint = std::filesystem::canonical(latest);
    // "auto" was decided by a measurement, which need not come out the same twice.
    if (settings.precision == "auto") summary.precision.narrow = recorded_gemm_dtype(checkpoint);
    LoadedModel loaded = load_model_directory(checkpoint, context, {true, true, summary.precision});
    if (loaded.manifest.tokenizer && to_hex(*loaded.manifest.tokenizer) != digest) {
      fail(ErrorCode::kMismatch, "{}: SHA-256: expected {} (the checkpoint's), found {}: another tokenizer",
           (data / kTokenizerFile).string(), to_hex(*loaded.manifest.tokenizer), digest);
    }
    const Json wanted = config_to_json(config, ""), found = config_to_json(loaded.model.config, "");
    for (const auto& [key, value] : wanted.items()) {
      if (found[key] == value) continue;
      fail(ErrorCode::kMismatch,
           "{}: {}: expected {} (these settings), found {}: a resumed run keeps its shape",
           (checkpoint / kConfigFile).string(), key, shown(value), shown(found[key]));
    }
    draft.uuid = loaded.manifest.uuid;
    model = std::move(loaded.model);
  } else {
    model = Model(config, summary.precision);
    init_weights(model, settings.train.seed);
    model.refresh_compute(context);
  }
  Trainer trainer(context, model, shard, settings.train);
  if (resume) trainer.read_state(std::filesystem::canonical(checkpoints / kLatest));
  const std::filesystem::path metrics_path = run / kMetricsFile;
  if (resume)
    truncate_metrics(metrics_path, trainer.steps_done());
  else
    write_file_atomic(metrics_path, "");
  write_file_atomic(run / kSettingsFile, dump_json(settings.to_json()));
  std::ofstream metrics(metrics_path, std::ios::app);

  const std::vector<std::int64_t> counts = frequencies(shard, config.vocab);
  const auto stats = [&] { return TokenStats{counts, trainer.update_counts()}; };
  const auto validate = [&](std::int64_t step) {
    const double loss = evaluate_loss(context, model, held_out, settings.train.batch).loss;
    summary.validation.emplace_back(step, loss);
    return loss;
  };

  Progress progress("training", settings.train.steps, quiet);
  while (trainer.steps_done() < settings.train.steps) {
    const StepReport r = trainer.step();
    summary.steps.push_back(r);
    summary.tokens += r.tokens;
    summary.seconds += r.seconds;
    const double rate = static_cast<double>(r.tokens) / r.seconds;
    Json row{{"step", r.step},
             {"loss", r.loss},
             {"lr", r.lr},
             {"table_lr", r.table_lr},
             {"norm_dense", r.norms.dense},
             {"norm_table", r.norms.table},
             {"tokens", r.tokens},
             {"distinct", r.distinct},
             {"seconds", r.seconds},
             {"tokens_per_s", rate}};
    const bool last = r.step == settings.train.steps;
    if (last || (settings.eval_every > 0 && r.step % settings.eval_every == 0))
      row["eval_loss"] = validate(r.step);
    metrics << row.dump() << '\n' << std::flush;
    if (!metrics) fail(ErrorCode::kIo, "{}: could not be written (disk full?)", metrics_path.string());
    progress.update(
        r.step, fmt::format("loss {:.3f}  {} tokens/s", r.loss, count_text(static_cast<std::int64_t>(rate))));
    if (settings.checkpoint_every > 0 && (r.step % settings.checkpoint_every == 0 || last)) {
      save_model_directory(checkpoints / checkpoint_name(r.step), model, tokenizer_json, stats(), draft,
                           DType::f32, [&](const std::filesystem::path& dir) { trainer.write_state(dir); });
      switch_link(checkpoints / kLatest, checkpoint_name(r.step));
      prune(checkpoints, settings.keep_checkpoints);
    }
  }
  progress.finish();
  if (summary.validation.empty()) validate(trainer.steps_done());  // resumed at its end

  std::vector<double> rates;
  for (const StepReport& r : summary.steps) rates.push_back(static_cast<double>(r.tokens) / r.seconds);
  if (!rates.empty()) {
    std::nth_element(rates.begin(), rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2),
                     rates.end());
    summary.tokens_per_second = rates[rates.size() / 2];
  }
  summary.manifest = save_model_directory(model_directory, model, tokenizer_json, stats(), draft);
  return summary;
}

}  // namespace stem
