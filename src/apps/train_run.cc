#include "apps/train_run.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "apps/interrupt.h"
#include "apps/progress.h"
#include "apps/row_health.h"
#include "apps/run_files.h"
#include "apps/train_plan.h"
#include "io/digest.h"
#include "io/file.h"
#include "report/event_file.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

std::vector<std::int64_t> frequencies(const TokenShard& shard, std::int64_t vocab) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(vocab), 0);
  for (const std::int32_t token : shard.tokens) ++counts[static_cast<std::size_t>(token)];
  return counts;
}

// Masters, and what a training keeps beside them.
SaveOptions with_files(std::function<void(const fs::path&)> more) {
  SaveOptions options;
  options.more = std::move(more);
  return options;
}

// What TensorBoard is told of a step, at the same steps as metrics.jsonl.
void tell(EventFile& events, const Json& row) {
  constexpr std::pair<const char*, const char*> kTags[] = {{"loss", "train/loss"},
                                                           {"lr", "train/lr"},
                                                           {"table_lr", "train/table_lr"},
                                                           {"norm_dense", "train/norm_dense"},
                                                           {"norm_table", "train/norm_table"},
                                                           {"tokens_per_s", "train/tokens_per_s"},
                                                           {"distinct", "train/distinct"},
                                                           {"router_entropy", "train/router_entropy"},
                                                           {"balance_loss", "train/balance_loss"},
                                                           {"eval_loss", "eval/loss"}};
  for (const auto& [key, tag] : kTags) {
    if (row.contains(key)) events.scalar(tag, row["step"].get<std::int64_t>(), row[key].get<double>());
  }
  events.flush();
}

// A shard with something to predict.
TokenShard load_text(const fs::path& path, std::int64_t vocab, const std::string& tokenizer_digest) {
  TokenShard shard = load_shard(path, vocab, tokenizer_digest);
  for (std::size_t d = 0; d + 1 < shard.documents.size(); ++d) {
    for (std::int64_t i = shard.documents[d] + 1; i < shard.documents[d + 1]; ++i) {
      if (shard.is_target(i)) return shard;
    }
  }
  fail(ErrorCode::kFormat, "{}: expected at least one target token, found none", path.string());
}

double median_rate(const std::vector<StepReport>& steps) {
  std::vector<double> rates;
  for (const StepReport& r : steps) rates.push_back(static_cast<double>(r.tokens) / r.seconds);
  if (rates.empty()) return 0.0;
  const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
  std::nth_element(rates.begin(), middle, rates.end());
  return *middle;
}

class Run {
 public:
  Run(Runtime& runtime, const fs::path& data, const fs::path& model_directory, const Settings& settings,
      const RunOptions& options)
      : context_(runtime.training()),
        data_(data),
        target_(model_directory),
        run_(run_directory(model_directory)),
        checkpoints_(run_ / kCheckpoints),
        settings_(settings),
        options_(options),
        tokenizer_json_(read_file(data / kTokenizerFile)),
        tokenizer_digest_(to_hex(sha256(tokenizer_json_))) {}

  TrainSummary train() {
    load_texts();
    require_memory();
    prepare_folders();
    summary_.precision = training_precision(
        settings_.precision, config_, settings_.train.batch.tokens_per_step / settings_.train.accumulate);
    if (options_.resume)
      load_checkpoint();
    else if (!record_.from.empty())
      load_start();
    else
      draw_model();
    if (teacher_config_) load_teacher();
    trainer_.emplace(context_, model_, shard_, settings_.train, teacher_config_ ? &teacher_ : nullptr);
    if (options_.resume)
      trainer_->read_state(latest());
    else if (options_.adjust)
      options_.adjust(context_, model_);
    open_logs();
    const InterruptGuard interrupts;
    Progress progress("training", settings_.train.steps, options_.quiet, trainer_->steps_done());
    if (!options_.resume && settings_.train.on_spike == name_of(OnSpike::rollback)) save_checkpoint();
    while (trainer_->steps_done() < settings_.train.steps) one_step(progress);
    progress.finish();
    if (summary_.validation.empty()) validate(trainer_->steps_done());  // resumed at its end
    summary_.tokens_per_second = median_rate(summary_.steps);
    save_model();
    return std::move(summary_);
  }

 private:
  fs::path latest() const {
    const fs::path link = checkpoints_ / kLatest;
    if (!fs::exists(link)) {
      fail(ErrorCode::kNotFound, "{}: expected a checkpoint to resume from, found none", link.string());
    }
    return fs::canonical(link);
  }

  // Told before anything is allocated: the system would end the process without a word.
  void require_memory() const {
    const TrainPlan plan = plan_training(settings_, config_, {DType::f32, DType::f32}, 0,
                                         teacher_config_ ? &*teacher_config_ : nullptr);
    const double machine = memory_bytes();
    if (plan.memory_bytes <= machine) return;
    const auto largest =
        std::max_element(plan.memory.begin(), plan.memory.end(),
                         [](const MemoryPart& a, const MemoryPart& b) { return a.bytes < b.bytes; });
    fail(
        ErrorCode::kUsage,
        "training: memory: expected a plan of at most {} (this machine's), found {}, most of it {}; see stem "
        "plan-train, train.accumulate and train.tokens_per_step",
        bytes_text(machine), bytes_text(plan.memory_bytes), largest->name);
  }

  void load_texts() {
    const fs::path checkpoint = options_.resume ? latest() : fs::path();
    if (options_.resume)
      record_ = read_run_record(run_);
    else if (!options_.from.empty())
      record_.from = fs::absolute(options_.from).lexically_normal();
    record_.data = fs::absolute(data_).lexically_normal();
    const Tokenizer tokenizer = Tokenizer::from_json(tokenizer_json_, (data_ / kTokenizerFile).string());
    std::int64_t vocab = tokenizer.vocab_size();
    if (!record_.from.empty()) {  // the shape is that of the model, padded vocabulary included
      const ModelConfig from = read_config(options_.resume ? checkpoint : record_.from);
      settings_.adopt_model(from, record_.from.string());
      if (!options_.resume) require_tokenizer(read_manifest(record_.from), record_.from.string() + "'s");
      vocab = from.vocab;
    }
    config_ = settings_.resolve_model(vocab);
    find_teacher();
    shard_ = load_text(data_ / kTrainTokens, vocab, tokenizer_digest_);
    held_out_ = load_text(data_ / kHeldOutTokens, vocab, tokenizer_digest_);
    load_more_held_out(vocab);
    settings_.train.data_digest = to_hex(sha256_file(data_ / kTrainTokens));
    counts_ = frequencies(shard_, vocab);
  }

  // Checks all of the teacher but its weights. A resumed run keeps its own, which may have moved.
  void find_teacher() {
    std::string& path = settings_.train.teacher;
    if (path.empty()) path = record_.teacher.string();
    if (path.empty()) {
      if (settings_.train.teacher_streams > 0)
        fail(ErrorCode::kUsage, "train.teacher_streams: expected 0 without train.teacher, found {}",
             settings_.train.teacher_streams);
      return;
    }
    const fs::path teacher = fs::absolute(path).lexically_normal();
    path = teacher.string();
    const std::string file = (teacher / kConfigFile).string();
    teacher_config_ = teacher_config(settings_);
    if (teacher_config_->vocab != config_.vocab) {
      fail(ErrorCode::kMismatch, "{}: vocab_size: expected {} (the student's), found {}", file, config_.vocab,
           teacher_config_->vocab);
    }
    if (teacher_config_->max_positions < settings_.train.batch.max_sequence) {
      fail(ErrorCode::kMismatch,
           "{}: max_position_embeddings: expected at least train.sequence = {}, found {}", file,
           settings_.train.batch.max_sequence, teacher_config_->max_positions);
    }
    if (settings_.train.teacher_streams > 0) {
      const auto same = [&](const char* field, std::int64_t expected, std::int64_t found) {
        if (found != expected)
          fail(ErrorCode::kMismatch, "{}: {}: expected {} (the student's: train.teacher_streams), found {}",
               file, field, expected, found);
      };
      same("num_hidden_layers", config_.layers, teacher_config_->layers);
      same("hidden_size", config_.width, teacher_config_->width);
    }
    const Manifest manifest = read_manifest(teacher);
    if (!same_ids(data_, teacher)) require_tokenizer(manifest, teacher.string() + "'s");
    const std::string uuid = uuid_text(manifest.uuid);
    if (!record_.teacher_uuid.empty() && record_.teacher_uuid != uuid) {
      fail(ErrorCode::kMismatch, "{}: uuid: expected {} ({}'s), found {}: a resumed run keeps its teacher",
           (teacher / kManifestName).string(), record_.teacher_uuid, (run_ / kRunFile).string(), uuid);
    }
    record_.teacher = teacher;
    record_.teacher_uuid = settings_.train.teacher_uuid = uuid;
  }

  // train.eval_shards: NAME=FILE,…; remembered with absolute paths, so that a run can be resumed anywhere.
  void load_more_held_out(std::int64_t vocab) {
    std::string absolute;
    std::istringstream list(settings_.eval_shards);
    for (std::string entry; std::getline(list, entry, ',');) {
      const std::size_t equals = entry.find('=');
      if (equals == 0 || equals == std::string::npos || equals + 1 == entry.size()) {
        fail(ErrorCode::kUsage, "train.eval_shards: expected NAME=FILE separated by commas, found \"{}\"",
             entry);
      }
      const fs::path path = fs::absolute(entry.substr(equals + 1)).lexically_normal();
      more_held_out_.emplace_back(entry.substr(0, equals), load_text(path, vocab, tokenizer_digest_));
      absolute += (absolute.empty() ? "" : ",") + entry.substr(0, equals + 1) + path.string();
    }
    settings_.eval_shards = absolute;
  }

  void prepare_folders() {
    {
      const StagedDirectory probe(target_);
    }  // a target that must not be replaced is told before the work, not after
    if (!options_.resume) fs::remove_all(checkpoints_);  // another run's steps would outlive this one's
    fs::create_directories(checkpoints_);
    remove_unfinished(checkpoints_);
  }

  void draw_model() {
    model_ = Model(config_, summary_.precision);
    init_weights(model_, settings_.train.seed);
    model_.refresh_compute(context_);
    draft_.uuid = random_uuid();
  }

  LoadedModel load(const fs::path& directory) {
    model_ = {};  // never two models in memory
    LoadedModel loaded = load_model_directory(directory, context_, {true, true, summary_.precision});
    require_tokenizer(loaded.manifest, options_.resume ? "the checkpoint's" : directory.string() + "'s");
    return loaded;
  }

  // The data's tokenizer is that of a model, `whose` as errors name it.
  void require_tokenizer(const Manifest& manifest, const std::string& whose) const {
    if (!manifest.tokenizer || to_hex(*manifest.tokenizer) == tokenizer_digest_) return;
    fail(ErrorCode::kMismatch, "{}: SHA-256: expected {} ({}), found {}: another tokenizer",
         (data_ / kTokenizerFile).string(), to_hex(*manifest.tokenizer), whose, tokenizer_digest_);
  }

  void load_start() {
    LoadedModel loaded = load(record_.from);
    record_.from_uuid = uuid_text(loaded.manifest.uuid);
    model_ = std::move(loaded.model);
    draft_.uuid = random_uuid();
  }

  void load_teacher() {
    teacher_ = load_model_directory(record_.teacher, context_, {false, true, summary_.precision}).model;
  }

  void load_checkpoint() {
    const fs::path checkpoint = latest();
    // "auto" was decided by a measurement, which need not come out the same twice.
    if (settings_.precision == "auto") summary_.precision.narrow = recorded_gemm_dtype(checkpoint);
    LoadedModel loaded = load(checkpoint);
    const Json wanted = config_to_json(config_, ""), found = config_to_json(loaded.model.config, "");
    for (const auto& [key, value] : wanted.items()) {
      if (found[key] == value) continue;
      fail(ErrorCode::kMismatch,
           "{}: {}: expected {} (these settings), found {}: a resumed run keeps its shape",
           (checkpoint / kConfigFile).string(), key, shown(value), shown(found[key]));
    }
    draft_.uuid = loaded.manifest.uuid;
    model_ = std::move(loaded.model);
  }

  void open_logs() {
    metrics_path_ = run_ / kMetricsFile;
    if (options_.resume)
      truncate_metrics(metrics_path_, trainer_->steps_done());
    else
      write_file_atomic(metrics_path_, "");
    write_file_atomic(run_ / kSettingsFile, dump_json(settings_.to_json()));
    write_run_record(run_, record_);
    metrics_.open(metrics_path_, std::ios::app);
    events_.emplace(run_ / "tensorboard", trainer_->steps_done() + 1);
  }

  void log(const Json& row) {
    metrics_ << row.dump() << '\n' << std::flush;
    if (!metrics_) fail(ErrorCode::kIo, "{}: could not be written (disk full?)", metrics_path_.string());
    tell(*events_, row);
  }

  void one_step(Progress& progress) {
    StepReport r;
    try {
      r = trainer_->step();
      if (options_.adjust) options_.adjust(context_, model_);
    } catch (const SpikeStop& stop) {
      progress.finish();
      log(metrics_row(stop.report()));
      save_checkpoint();
      if (settings_.train.on_spike == name_of(OnSpike::skip)) throw;  // skipping did not help
      throw Error(stop.code(), fmt::format("{}; to leave such steps out: stem resume {} --on-spike skip",
                                           stop.what(), target_.string()));
    }
    summary_.steps.push_back(r);
    summary_.tokens += r.tokens;
    summary_.seconds += r.seconds;
    if (r.spike) report_spike(r, progress);
    Json row = metrics_row(r);
    const bool last = r.step == settings_.train.steps;
    if (last || (settings_.eval_every > 0 && r.step % settings_.eval_every == 0)) {
      row["eval_loss"] = validate(r.step);
      for (const auto& [name, shard] : more_held_out_)
        row["eval_losses"][name] = trainer_->evaluate(shard).loss;
    }
    log(row);
    progress.update(
        r.step,
        fmt::format("loss {:.3f}  {} tokens/s", r.loss,
                    count_text(static_cast<std::int64_t>(static_cast<double>(r.tokens) / r.seconds))));
    if (settings_.checkpoint_every > 0 && (r.step % settings_.checkpoint_every == 0 || last))
      save_checkpoint();
    const int signal = InterruptGuard::pending();
    if (signal == 0 || last) return;
    progress.finish();
    save_checkpoint();
    throw Interrupted{signal, fmt::format("stopped by {} after step {} of {}; to go on: stem resume {}",
                                          signal == SIGINT ? "SIGINT" : "SIGTERM", r.step,
                                          settings_.train.steps, target_.string())};
  }

  void report_spike(const StepReport& r, Progress& progress) {
    progress.finish();
    std::string done = "the update was made";
    if (r.spike->action == OnSpike::skip) done = "no update";
    if (r.spike->action == OnSpike::rollback) {
      const fs::path checkpoint = latest();
      model_ = load(checkpoint).model;
      trainer_->roll_back(checkpoint);
      done = fmt::format("back to {}, without the steps since then", checkpoint.filename().string());
    }
    fmt::print(stderr, "step {}: {} (documents {}): {}\n", r.step, r.spike->text(),
               fmt::join(r.spike->documents, ", "), done);
  }

  double validate(std::int64_t step) {
    const double loss = trainer_->evaluate(held_out_).loss;
    summary_.validation.emplace_back(step, loss);
    return loss;
  }

  void save_checkpoint() {
    const std::int64_t step = trainer_->steps_done();
    if (step == saved_step_) return;
    save_model_directory(checkpoints_ / checkpoint_name(step), model_, tokenizer_json_,
                         {counts_, trainer_->update_counts()}, draft_, with_files([&](const fs::path& dir) {
                           trainer_->write_state(dir);
                           copy_tokenizer_config(data_, dir);
                         }));
    switch_link(checkpoints_ / kLatest, checkpoint_name(step));
    prune_checkpoints(checkpoints_, settings_.keep_checkpoints);
    saved_step_ = step;
  }

  // The model itself: unlike in a checkpoint, no record lags behind.
  void save_model() {
    const Optimizer& optimizer = trainer_->optimizer();
    TokenStats stats{counts_, trainer_->update_counts()};
    const bool only_updated = optimizer.mode() == TableOptimizer::lazy || settings_.train.table_decay == 0 ||
                              optimizer.freeze().table;
    const std::optional<InitialRecords> initial = initial_records();
    measure_rows(context_, model_, optimizer, initial ? &*initial : nullptr, only_updated, stats);
    summary_.manifest = save_model_directory(target_, model_, tokenizer_json_, stats, draft_,
                                             with_files([&](const fs::path& dir) {
                                               write_current_rows(dir, context_, model_, optimizer);
                                               copy_tokenizer_config(data_, dir);
                                             }));
  }

  std::optional<InitialRecords> initial_records() const {
    if (config_.stem_layer_count() == 0) return std::nullopt;
    if (record_.from.empty()) return std::make_optional<InitialRecords>(config_, settings_.train.seed);
    try {
      if (uuid_text(read_manifest(record_.from).uuid) == record_.from_uuid)
        return std::make_optional<InitialRecords>(config_, record_.from);
    } catch (const Error&) {  // told below, as for another model in its place
    }
    fmt::print(stderr,
               "{}: no longer the model that this run started from: the rows' distances are left out\n",
               record_.from.string());
    return std::nullopt;
  }

  Context context_;
  fs::path data_, target_, run_, checkpoints_, metrics_path_;
  Settings settings_;
  RunOptions options_;
  std::string tokenizer_json_, tokenizer_digest_;
  RunRecord record_;
  ModelConfig config_;
  TokenShard shard_, held_out_;
  std::vector<std::pair<std::string, TokenShard>> more_held_out_;
  std::vector<std::int64_t> counts_;
  Manifest draft_;
  Model model_;
  std::optional<ModelConfig> teacher_config_;  // none without a teacher
  Model teacher_;
  std::optional<Trainer> trainer_;
  std::ofstream metrics_;
  std::optional<EventFile> events_;
  std::int64_t saved_step_ = -1;
  TrainSummary summary_;
};

}  // namespace

TrainSummary train_run(Runtime& runtime, const fs::path& data, const fs::path& model_directory,
                       const Settings& settings, const RunOptions& options) {
  return Run(runtime, data, model_directory, settings, options).train();
}

TrainSummary train_run(Runtime& runtime, const fs::path& data, const fs::path& model_directory,
                       const Settings& settings, bool resume, bool quiet) {
  return train_run(runtime, data, model_directory, settings, RunOptions{resume, quiet, {}});
}

}  // namespace stem
