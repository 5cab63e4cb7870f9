#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace stem {
namespace {

TableOptimizer checked_mode(const TrainOptions& o) {
  const TableOptimizer mode = table_optimizer_from(o.table_optimizer);
  // Missed updates multiply by 1 − lr·decay; a factor that is not positive has no logarithm.
  if (mode == TableOptimizer::exact && !(o.table_lr * o.table_decay < 1 && o.lr * o.decay < 1)) {
    fail(ErrorCode::kUsage,
         "train.table_optimizer: exact expects learning rate × weight decay below 1, found {} and {} "
         "(backbone and tables)",
         o.lr * o.decay, o.table_lr * o.table_decay);
  }
  return mode;
}

}  // namespace

Trainer::Trainer(const Context& context, Model& model, const TokenShard& shard, const TrainOptions& options,
                 const Model* teacher)
    : context_(context),
      model_(model),
      teacher_(teacher),
      options_(options),
      on_spike_(on_spike_from(options.on_spike)),
      stream_(shard, options.batch),
      optimizer_(model, checked_mode(options), Freeze(options.freeze, model.config)),
      update_counts_(static_cast<std::size_t>(model.config.vocab), 0) {
  require(teacher == nullptr || teacher->config.vocab == model.config.vocab,
          "a teacher with the model's vocabulary");
  require(
      options.teacher_streams == 0 || (teacher != nullptr && teacher->config.layers == model.config.layers &&
                                       teacher->config.width == model.config.width),
      "streams of a teacher with the model's layers and width");
  gradients_.fixed_first = options.fixed_first;
}

// Adds the gradients of one micro-batch, which is `share` of the step; returns the sum of its losses.
double Trainer::accumulate(const Batch& part, const TokenGroups& groups, std::span<const float> weights,
                           double share, StepReport& report) {
  Workspace::Scope scope(*context_.workspace);
  const TokenBatch view = part.view();
  // Streams count at every position, and `weights` are those of positions with a target.
  const double counted = static_cast<double>(report.targets) / static_cast<double>(report.tokens);
  TeacherPass teacher;
  if (teacher_ != nullptr)
    teacher = ask_teacher(context_, *teacher_, view, RowPlan(teacher_->table, view),
                          options_.teacher_streams * counted);
  const RowPlan rows(model_.table, view);
  Activations a = allocate_activations(context_, model_, view.size());
  forward_hidden(context_, model_, view, rows, a);
  const Out loss = context_.workspace->matrix(model_.precision.wide, 1, view.size());
  gradients_.auxiliary_weight = share;
  backward(context_, model_, view, rows, groups, a, part.targets, weights, loss, gradients_, teacher);
  report.stream_loss += a.stream_loss * counted;
  RouterStats& router = report.router;
  router.layers = a.router.layers;
  router.balance_loss += share * a.router.balance_loss;
  router.z_loss += share * a.router.z_loss;
  router.entropy += share * a.router.entropy;
  router.load_ratio = std::max(router.load_ratio, a.router.load_ratio);
  router.seconds += a.router.seconds;
  return sum_of_losses(loss);
}

void Trainer::judge(StepReport& report, const Batch& batch) {
  const bool is_finite =
      std::isfinite(report.loss) && std::isfinite(report.norms.dense) && std::isfinite(report.norms.table);
  const double limit = window_.limit();
  if (is_finite && report.loss <= limit) {
    report.updated = true;
    return;
  }
  Spike spike;
  spike.loss = report.loss;
  spike.limit = std::isfinite(limit) ? limit : 0.0;
  spike.is_finite = is_finite;
  spike.action = !is_finite && on_spike_ == OnSpike::carry_on ? OnSpike::stop : on_spike_;
  spike.documents = batch.documents;
  report.updated = spike.action == OnSpike::carry_on;
  report.spike = spike;
  const auto stop = [&](const std::string& why) {
    report.spike->action = OnSpike::stop;
    throw SpikeStop(report, fmt::format("step {}: {} (documents {}){}", report.step, spike.text(),
                                        fmt::join(batch.documents, ", "), why));
  };
  if (spike.action == OnSpike::stop) stop(is_finite ? "" : "; lower train.lr");
  if (spike.action == OnSpike::skip && skipped_in_a_row_ == kMostSkips)
    stop(fmt::format(", after {} skipped steps in a row", kMostSkips));
  if (spike.action == OnSpike::rollback && rollbacks_ == kMostRollbacks)
    stop(fmt::format(", after {} rollbacks", kMostRollbacks));
}

StepReport Trainer::step() {
  const auto start = std::chrono::steady_clock::now();
  const Batch batch = stream_.at(step_);
  const TokenGroups groups(batch.tokens);
  StepReport report;
  report.step = step_ + 1;
  report.tokens = static_cast<std::int64_t>(batch.tokens.size());
  report.distinct = groups.distinct();
  for (const std::int32_t t : batch.targets) report.targets += t >= 0;
  report.lr = learning_rate(options_.lr, report.step, options_.warmup, options_.steps, options_.floor);
  report.table_lr =
      learning_rate(options_.table_lr, report.step, options_.warmup, options_.steps, options_.floor);

  if (report.targets > 0) {
    optimizer_.catch_up(context_, model_, groups.tokens());
    Workspace::Scope scope(*context_.workspace);
    prepare_gradients(context_, model_, groups, gradients_, optimizer_.freeze());
    const std::vector<float> weights(batch.tokens.size(), 1.0f / static_cast<float>(report.targets));
    double sum = 0;
    if (options_.accumulate == 1) {
      sum = accumulate(batch, groups, weights, 1.0, report);
    } else {
      for (const Batch& part : split(batch, options_.accumulate)) {
        const std::size_t n = part.tokens.size();
        sum += accumulate(part, TokenGroups(part.tokens, groups.tokens()), std::span(weights).first(n),
                          static_cast<double>(n) / static_cast<double>(report.tokens), report);
      }
    }
    report.loss = sum / static_cast<double>(report.targets);
    report.norms = optimizer_.norms(context_, model_, gradients_);
    judge(report, batch);
    if (report.updated) {
      const GroupOptions dense{static_cast<float>(report.lr), static_cast<float>(options_.decay),
                               static_cast<float>(options_.clip)};
      const GroupOptions table{static_cast<float>(report.table_lr), static_cast<float>(options_.table_decay),
                               static_cast<float>(options_.table_clip)};
      optimizer_.update(context_, model_, gradients_, groups.tokens(), report.norms, dense, table);
      for (const std::int32_t t : groups.tokens()) ++update_counts_[static_cast<std::size_t>(t)];
      window_.accept(report.loss);
    }
    skipped_in_a_row_ = report.updated ? 0 : skipped_in_a_row_ + 1;
  }
  step_ = report.step;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

EvalResult Trainer::evaluate(const TokenShard& shard) const {
  return evaluate_loss(context_, model_, shard, options_.batch, nullptr, nullptr, 0,
                       [&](std::span<const std::int32_t> tokens, const std::function<void()>& run) {
                         const TokenGroups groups(tokens);
                         const Current current(context_, model_, optimizer_, groups.tokens());
                         run();
                       });
}

void Trainer::roll_back(const std::filesystem::path& dir) {
  const std::int64_t step = step_, rollbacks = rollbacks_;
  read_state(dir);
  step_ = step;
  rollbacks_ = rollbacks + 1;
}

}  // namespace stem
