#include "train/trainer.h"

#include <chrono>
#include <cmath>
#include <cstring>

#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace stem {
namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "train_state.json";

double value_at(In view, std::int64_t i) {
  return view.dtype == DType::f64 ? view.row<double>(0)[i] : static_cast<double>(view.row<float>(0)[i]);
}

// What must not differ between the run that wrote a state and the one that goes on with it.
Json fingerprint(const Model& model, const TrainOptions& o) {
  return {{"config", config_to_json(model.config, "float32")},
          {"gemm_dtype", name_of(model.precision.narrow)},
          {"train.tokens_per_step", o.batch.tokens_per_step},
          {"train.sequence", o.batch.max_sequence},
          {"train.document_mask", o.batch.document_mask},
          {"train.data_seed", o.batch.seed},
          {"train.steps", o.steps},
          {"train.lr", o.lr},
          {"train.table_lr", o.table_lr},
          {"train.warmup", o.warmup},
          {"train.floor", o.floor},
          {"train.decay", o.decay},
          {"train.table_decay", o.table_decay},
          {"train.clip", o.clip},
          {"train.table_clip", o.table_clip}};
}

struct StateTensor {
  std::string name;
  Out view;
};
std::vector<StateTensor> state_tensors(const Optimizer& o) {
  std::vector<StateTensor> all{{"dense.m", o.m.flat}, {"dense.v", o.v.flat}};
  const auto add = [&](const std::string& name, const RowState& s) {
    if (s.last_step.empty()) return;
    all.push_back({name + ".m", s.m.view});
    all.push_back({name + ".v", s.v.view});
  };
  add("table", o.table);
  add("embedding", o.embedding);
  return all;
}

}  // namespace

Trainer::Trainer(const Context& context, Model& model, const TokenShard& shard, const TrainOptions& options)
    : context_(context),
      model_(model),
      options_(options),
      stream_(shard, options.batch),
      optimizer_(model),
      update_counts_(static_cast<std::size_t>(model.config.vocab), 0) {}

StepReport Trainer::step() {
  const auto start = std::chrono::steady_clock::now();
  StepReport report;
  report.step = ++step_;
  const Batch batch = stream_.at(step_ - 1);
  const TokenBatch view = batch.view();
  const TokenGroups groups(batch.tokens);
  const RowPlan rows(model_.table, view);
  report.tokens = view.size();
  report.distinct = groups.distinct();

  Workspace::Scope scope(*context_.workspace);
  Activations a = allocate_activations(context_, model_, view.size());
  prepare_gradients(context_, model_, groups, gradients_);
  forward_hidden(context_, model_, view, rows, a);
  std::int64_t targets = 0;
  for (const std::int32_t t : batch.targets) targets += t >= 0;
  const std::vector<float> weights(batch.targets.size(), 1.0f / static_cast<float>(targets));
  const Out loss = context_.workspace->matrix(model_.precision.wide, 1, view.size());
  backward(context_, model_, view, rows, groups, a, batch.targets, weights, loss, gradients_);
  for (std::int64_t i = 0; i < view.size(); ++i) report.loss += value_at(loss, i);
  report.loss /= static_cast<double>(targets);
  if (!std::isfinite(report.loss)) {
    fail(ErrorCode::kFormat, "step {}: the loss is not a number (documents {}); lower train.lr", step_,
         fmt::join(batch.documents, ", "));
  }

  report.lr = learning_rate(options_.lr, step_, options_.warmup, options_.steps, options_.floor);
  report.table_lr = learning_rate(options_.table_lr, step_, options_.warmup, options_.steps, options_.floor);
  const GroupOptions dense{static_cast<float>(report.lr), static_cast<float>(options_.decay),
                           static_cast<float>(options_.clip)};
  const GroupOptions table{static_cast<float>(report.table_lr), static_cast<float>(options_.table_decay),
                           static_cast<float>(options_.table_clip)};
  report.norms = optimizer_.update(context_, model_, gradients_, groups.tokens(), step_, dense, table);
  for (const std::int32_t t : groups.tokens()) ++update_counts_[static_cast<std::size_t>(t)];
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

void Trainer::write_state(const std::filesystem::path& dir) const {
  const auto tensors = state_tensors(optimizer_);
  const auto vocab = static_cast<std::int64_t>(update_counts_.size());
  std::vector<TensorSpec> specs{{"update_counts", DType::i64, {vocab}}};
  const auto rows = [&](const std::string& name, const RowState& s) {
    if (!s.last_step.empty()) specs.push_back({name + ".last_step", DType::i64, {vocab}});
  };
  rows("table", optimizer_.table);
  rows("embedding", optimizer_.embedding);
  for (const StateTensor& t : tensors) specs.push_back({t.name, t.view.dtype, {t.view.rows, t.view.cols}});
  SafetensorsWriter writer(dir / kOptimizerFile, specs);
  const auto bytes = static_cast<std::uint64_t>(vocab) * sizeof(std::int64_t);
  writer.write("update_counts", update_counts_.data(), bytes);
  if (!optimizer_.table.last_step.empty())
    writer.write("table.last_step", optimizer_.table.last_step.data(), bytes);
  if (!optimizer_.embedding.last_step.empty())
    writer.write("embedding.last_step", optimizer_.embedding.last_step.data(), bytes);
  for (const StateTensor& t : tensors) writer.write(t.name, t.view);
  writer.close();
  const Json state{{"format", "stem-train-state/1"}, {"step", step_}, {"run", fingerprint(model_, options_)}};
  write_file_atomic(dir / kStateFile, dump_json(state));
}

void Trainer::read_state(const std::filesystem::path& dir) {
  const std::string path = (dir / kStateFile).string();
  const Json state = parse_json(read_file(path), path);
  const Json expected = fingerprint(model_, options_);
  const Json& run = get_object(state, "run", path);
  for (const auto& [key, value] : expected.items()) {
    if (!run.contains(key) || run[key] != value) {
      fail(ErrorCode::kMismatch,
           "{}: run.{}: expected {} (this run's), found {}: a resumed run keeps its options", path, key,
           shown(value), run.contains(key) ? shown(run[key]) : "nothing");
    }
  }
  const Safetensors file = Safetensors::open(dir / kOptimizerFile);
  const auto vocab = static_cast<std::int64_t>(update_counts_.size());
  const auto counts = [&](const char* name, std::vector<std::int64_t>& into) {
    const std::int64_t shape[] = {vocab};
    std::memcpy(into.data(), file.data(file.expect(name, DType::i64, shape)),
                into.size() * sizeof(std::int64_t));
  };
  counts("update_counts", update_counts_);
  if (!optimizer_.table.last_step.empty()) counts("table.last_step", optimizer_.table.last_step);
  if (!optimizer_.embedding.last_step.empty()) counts("embedding.last_step", optimizer_.embedding.last_step);
  for (const StateTensor& t : state_tensors(optimizer_)) {
    const std::int64_t shape[] = {t.view.rows, t.view.cols};
    const TensorInfo& info = file.expect(t.name, t.view.dtype, shape);
    std::memcpy(t.view.data, file.data(info), info.bytes);
  }
  step_ = get_int(state, "step", path, 0, options_.steps);
}

DType recorded_gemm_dtype(const std::filesystem::path& dir) {
  const std::string path = (dir / kStateFile).string();
  const Json state = parse_json(read_file(path), path);
  const std::string name = get_string(get_object(state, "run", path), "gemm_dtype", path);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  fail(ErrorCode::kFormat, "{}: run.gemm_dtype: expected f32 or bf16, found \"{}\"", path, name);
}

double EvalResult::perplexity() const {
  return std::exp(loss);
}

EvalResult evaluate_loss(const Context& context, const Model& model, const TokenShard& shard,
                         const BatchOptions& options, const Table* table, const Overlay* overlay,
                         std::int64_t max_tokens) {
  EvalResult result;
  double sum = 0.0;
  const auto run = [&](const Batch& batch) {
    Workspace::Scope scope(*context.workspace);
    const TokenBatch view = batch.view();
    const RowPlan rows(table == nullptr ? model.table : *table, view, overlay);
    Activations a = allocate_activations(context, model, view.size());
    forward_hidden(context, model, view, rows, a);
    const Out loss = context.workspace->matrix(model.precision.wide, 1, view.size());
    forward_loss(context, model, a, batch.targets, loss);
    for (std::int64_t i = 0; i < view.size(); ++i) sum += value_at(loss, i);
    for (const std::int32_t t : batch.targets) result.targets += t >= 0;
  };
  // Documents in file order, as many whole segments a batch as fit.
  Batch batch;
  std::int64_t seen = 0;
  for (std::int64_t d = 0; d < shard.document_count(); ++d) {
    const auto i = static_cast<std::size_t>(d);
    for (std::int64_t first = shard.documents[i]; first < shard.documents[i + 1];
         first += options.max_sequence) {
      const std::int64_t count = std::min(options.max_sequence, shard.documents[i + 1] - first);
      if (max_tokens > 0 && seen + count > max_tokens) break;
      if (!batch.tokens.empty() &&
          static_cast<std::int64_t>(batch.tokens.size()) + count > options.tokens_per_step) {
        run(batch);
        batch = {};
      }
      append_sequence(batch, shard, first, count);
      seen += count;
    }
  }
  if (!batch.tokens.empty()) run(batch);
  if (result.targets == 0) fail(ErrorCode::kFormat, "evaluation: the shard holds no target token");
  result.loss = sum / static_cast<double>(result.targets);
  return result;
}

}  // namespace stem
