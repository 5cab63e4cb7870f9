// What a checkpoint holds besides the model. Format: docs/formats/checkpoint.md.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "train/trainer.h"

namespace stem {
namespace {

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "train_state.json";
constexpr const char* kFormat = "stem-train-state/2";
constexpr const char* kTeacher = "teacher_uuid";
constexpr const char* kTeacherStreams = "train.teacher_streams";

// What must not differ between the run that wrote a state and the one that goes on with it.
Json fingerprint(const Model& model, const TrainOptions& o) {
  return {{"config", config_to_json(model.config, "float32")},
          {"gemm_dtype", name_of(model.precision.narrow)},
          {"data_sha256", o.data_digest},
          {"train.tokens_per_step", o.batch.tokens_per_step},
          {"train.sequence", o.batch.max_sequence},
          {"train.document_mask", o.batch.document_mask},
          {"train.data_seed", o.batch.seed},
          {"train.accumulate", o.accumulate},
          {"train.steps", o.steps},
          {"train.lr", o.lr},
          {"train.table_lr", o.table_lr},
          {"train.warmup", o.warmup},
          {"train.floor", o.floor},
          {"train.decay", o.decay},
          {"train.table_decay", o.table_decay},
          {"train.clip", o.clip},
          {"train.table_clip", o.table_clip},
          {"train.table_optimizer", o.table_optimizer},
          {"train.freeze", o.freeze},
          {kTeacher, o.teacher_uuid},
          {kTeacherStreams, o.teacher_streams}};
}

struct Moments {
  std::string name;
  Out view;
};

// The row-sparse matrices that this run trains; S is RowState, const or not.
template <class S>
struct Rows {
  std::string name;
  S* state;
};
template <class S, class O>
std::vector<Rows<S>> rows_of(O& optimizer) {
  std::vector<Rows<S>> all;
  if (optimizer.table.present()) all.push_back({"table", &optimizer.table});
  if (optimizer.embedding.present()) all.push_back({"embedding", &optimizer.embedding});
  return all;
}

std::vector<Moments> moments_of(const Optimizer& o) {
  std::vector<Moments> all{{"dense.m", o.m.flat}, {"dense.v", o.v.flat}};
  for (const auto& [name, state] : rows_of<const RowState>(o)) {
    all.push_back({name + ".m", state->m.view});
    all.push_back({name + ".v", state->v.view});
  }
  return all;
}

// Copies what a file holds of a state; where it holds zeros and so does the state, nothing is written, so
// that rows that were never updated take no memory (Buffer::zeroed).
void copy_state(const Out& to, const void* from) {
  constexpr std::size_t kPage = 4096;
  static constexpr char kZeros[kPage] = {};
  auto* const into = static_cast<char*>(to.data);
  const auto* const source = static_cast<const char*>(from);
  const auto bytes = static_cast<std::size_t>(to.size() * size_of(to.dtype));
  for (std::size_t at = 0; at < bytes; at += kPage) {
    const std::size_t count = std::min(kPage, bytes - at);
    if (std::memcmp(source + at, kZeros, count) == 0 && std::memcmp(into + at, kZeros, count) == 0) continue;
    std::memcpy(into + at, source + at, count);
  }
}

Json read_json(const std::filesystem::path& dir) {
  const std::string path = (dir / kStateFile).string();
  Json state = parse_json(read_file(path), path);
  if (const std::string format = get_string(state, "format", path); format != kFormat) {
    fail(ErrorCode::kMismatch, "{}: format: expected \"{}\", found \"{}\"", path, kFormat, format);
  }
  return state;
}

}  // namespace

void Trainer::write_state(const std::filesystem::path& dir) const {
  const auto vocab = static_cast<std::int64_t>(update_counts_.size());
  const auto bytes = static_cast<std::uint64_t>(vocab) * sizeof(std::int64_t);
  const auto moments = moments_of(optimizer_);
  const auto rows = rows_of<const RowState>(optimizer_);
  std::vector<TensorSpec> specs{{"update_counts", DType::i64, {vocab}}};
  for (const auto& [name, state] : rows) specs.push_back({name + ".last_step", DType::i64, {vocab}});
  for (const auto& [name, view] : moments) specs.push_back({name, view.dtype, {view.rows, view.cols}});
  for (const auto& [name, state] : rows)
    specs.push_back({name + ".lr", DType::f32, {state->history.updates()}});
  SafetensorsWriter writer(dir / kOptimizerFile, specs);
  writer.write("update_counts", update_counts_.data(), bytes);
  for (const auto& [name, state] : rows) writer.write(name + ".last_step", state->last_step.data(), bytes);
  for (const auto& [name, view] : moments) writer.write(name, view);
  for (const auto& [name, state] : rows) {
    const std::vector<float>& lr = state->history.lr();
    if (!lr.empty()) writer.write(name + ".lr", lr.data(), lr.size() * sizeof(float));
  }
  writer.close();
  const Json state{{"format", kFormat},
                   {"step", step_},
                   {"updates", optimizer_.updates()},
                   {"skipped_in_a_row", skipped_in_a_row_},
                   {"rollbacks", rollbacks_},
                   {"losses", window_.losses()},
                   {"run", fingerprint(model_, options_)}};
  write_file_atomic(dir / kStateFile, dump_json(state));
}

void Trainer::read_state(const std::filesystem::path& dir) {
  const std::string path = (dir / kStateFile).string();
  const Json state = read_json(dir);
  const Json expected = fingerprint(model_, options_);
  const Json& run = get_object(state, "run", path);
  for (const auto& [key, value] : expected.items()) {
    // States of before there were teachers, or their streams were learnt, name none.
    const bool none = (key == kTeacher && value == "") || (key == kTeacherStreams && value == 0);
    if (none && !run.contains(key)) continue;
    if (!run.contains(key) || run[key] != value) {
      fail(ErrorCode::kMismatch, "{}: run.{}: expected {} (this run's), found {}: a resumed run keeps its {}",
           path, key, shown(value), run.contains(key) ? shown(run[key]) : "nothing",
           key == "data_sha256" ? "training text"
           : key == kTeacher    ? "teacher"
                                : "options");
    }
  }
  const std::int64_t step = get_int(state, "step", path, 0, options_.steps);
  const std::int64_t updates = get_int(state, "updates", path, 0, step);
  const Safetensors file = Safetensors::open(dir / kOptimizerFile);
  const auto vocab = static_cast<std::int64_t>(update_counts_.size());
  const auto counts = [&](const std::string& name, std::vector<std::int64_t>& into) {
    const std::int64_t shape[] = {vocab};
    std::memcpy(into.data(), file.data(file.expect(name, DType::i64, shape)),
                into.size() * sizeof(std::int64_t));
    for (std::size_t i = 0; i < into.size(); ++i) {
      if (into[i] >= 0 && into[i] <= updates) continue;
      fail(ErrorCode::kFormat, "{}: {}[{}]: expected a count of updates in [0, {}], found {}", file.path(),
           name, i, updates, into[i]);
    }
  };
  counts("update_counts", update_counts_);
  for (const auto& [name, rows] : rows_of<RowState>(optimizer_)) {
    counts(name + ".last_step", rows->last_step);
    const std::int64_t shape[] = {optimizer_.mode() == TableOptimizer::exact ? updates : 0};
    const TensorInfo& lr = file.expect(name + ".lr", DType::f32, shape);
    std::vector<float> rates(static_cast<std::size_t>(shape[0]));
    if (!rates.empty()) std::memcpy(rates.data(), file.data(lr), lr.bytes);
    const double decay = name == "table" ? options_.table_decay : options_.decay;
    for (const float rate : rates) {
      if (rate >= 0 && static_cast<double>(rate) * decay < 1) continue;
      fail(ErrorCode::kFormat, "{}: {}.lr: expected learning rates, found {}", file.path(), name, rate);
    }
    rows->history.restore(rates, static_cast<float>(decay));
  }
  for (const Moments& t : moments_of(optimizer_)) {
    const std::int64_t shape[] = {t.view.rows, t.view.cols};
    const TensorInfo& info = file.expect(t.name, t.view.dtype, shape);
    copy_state(t.view, file.data(info));
  }
  std::vector<double> losses;
  for (const Json& loss : get_array(state, "losses", path, SpikeWindow::kWindow)) {
    if (!loss.is_number()) {
      fail(ErrorCode::kFormat, "{}: losses: expected numbers, found {}", path, shown(loss));
    }
    losses.push_back(loss.get<double>());
  }
  window_.restore(std::move(losses));
  skipped_in_a_row_ = get_int(state, "skipped_in_a_row", path, 0, options_.steps);
  rollbacks_ = get_int(state, "rollbacks", path, 0, kMostRollbacks);
  optimizer_.set_updates(updates);
  step_ = step;
}

DType recorded_gemm_dtype(const std::filesystem::path& dir) {
  const std::string path = (dir / kStateFile).string();
  const Json state = read_json(dir);
  const std::string name = get_string(get_object(state, "run", path), "gemm_dtype", path);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  fail(ErrorCode::kFormat, "{}: run.gemm_dtype: expected f32 or bf16, found \"{}\"", path, name);
}

}  // namespace stem
