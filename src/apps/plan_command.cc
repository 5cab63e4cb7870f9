// stem plan-train: what a configuration would take, before anything is trained.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/data_command.h"
#include "apps/option_checks.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "apps/train_plan.h"
#include "core/error.h"

namespace stem {
namespace {

struct Options {
  std::string config, tokens;
  std::vector<std::string> assignments;
  std::int64_t vocab = 0;
  double gemm_share = 0.6;
  bool json = false, dry = false;
};

// "350m" for the file configs/350m.toml that ships with the program.
std::filesystem::path config_path(const std::string& given) {
  if (std::filesystem::exists(given) || given.find('/') != std::string::npos || given.ends_with(".toml"))
    return given;
  return find_share("configs/" + given + ".toml");
}

/// 1.23 k, M, G, T, P, E.
std::string scaled(double value) {
  const char* const units[] = {"", " k", " M", " G", " T", " P", " E"};
  std::size_t unit = 0;
  for (; value >= 1000 && unit + 1 < std::size(units); ++unit) value /= 1000;
  return fmt::format("{:.{}f}{}", value, unit == 0 ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0, units[unit]);
}

std::string time_text(double seconds) {
  if (seconds < 5400) return duration_text(seconds);
  const double hours = seconds / 3600;
  if (hours < 48) return fmt::format("{:.1f} hours", hours);
  if (hours < 24 * 365) return fmt::format("{:.0f} days", hours / 24);
  return fmt::format("{} years", count_text(static_cast<std::int64_t>(hours / (24 * 365.25) + 0.5)));
}

Json plan_json(const ModelConfig& c, const TrainPlan& plan, Precision precision) {
  const Accounting& a = plan.account;
  Json memory = Json::object();
  for (const MemoryPart& part : plan.memory) memory[part.key] = part.bytes;
  return {{"config", config_to_json(c, name_of(precision.narrow))},
          {"parameters",
           {{"dense", a.dense_parameters},
            {"table", a.table_parameters},
            {"total", a.dense_parameters + a.table_parameters},
            {"active", a.active_parameters},
            {"deleted", a.deleted_parameters}}},
          {"flops_per_token",
           {{"forward", a.flops_per_token},
            {"forward_with_lookup", a.flops_per_token_with_lookup},
            {"training", plan.training_flops()},
            {"training_with_lookup", plan.training_flops_with_lookup()},
            {"teacher", plan.teacher_flops},
            {"attention_mean", plan.attention_flops_mean},
            {"attention_full", plan.attention_flops_full}}},
          {"table_bytes_per_token", plan.table_token_bytes},
          {"expected_distinct", plan.expected_distinct},
          {"memory", memory},
          {"memory_bytes", plan.memory_bytes},
          {"machine_bytes", memory_bytes()},
          {"tokens", plan.tokens},
          {"training_flops", plan.tokens * plan.training_flops()},
          {"gemm_dtype", name_of(precision.narrow)}};
}

void print_plan(const Settings& settings, const ModelConfig& c, const TrainPlan& plan, Precision precision) {
  const Accounting& a = plan.account;
  fmt::print("shape        {} layers, width {}, FFN {}, {} heads ({} key/value), vocabulary {}, {}; {}\n",
             c.layers, c.width, c.ffn, c.heads, c.kv_heads, count_text(c.vocab), c.tied ? "tied" : "untied",
             c.stem_layers.empty()
                 ? std::string("dense")
                 : fmt::format("{} in layers {}", name_of(c.variant), fmt::join(c.stem_layers, ", ")));
  fmt::print("parameters   dense {}, table {}, in all {} (without norms)\n", count_text(a.dense_parameters),
             count_text(a.table_parameters), count_text(a.dense_parameters + a.table_parameters));
  fmt::print("             active for one token {}; deleted {}\n", count_text(a.active_parameters),
             count_text(a.deleted_parameters));
  fmt::print(
      "FLOPs/token  forward {}, training {} (three times as many{}); counting the embedding lookup as a "
      "product "
      "{} and {}\n",
      scaled(a.flops_per_token), scaled(plan.training_flops()),
      plan.teacher_flops > 0 ? fmt::format(", and {} of the teacher", scaled(plan.teacher_flops)) : "",
      scaled(a.flops_per_token_with_lookup), scaled(plan.training_flops_with_lookup()));
  fmt::print("             attention besides, forward: {} at position {}, {} on average over a sequence\n",
             scaled(plan.attention_flops_full), count_text(settings.train.batch.max_sequence),
             scaled(plan.attention_flops_mean));
  if (plan.table_token_bytes > 0)
    fmt::print("table        {} a token in bf16, {} in f32 as trained\n", bytes_text(plan.table_token_bytes),
               bytes_text(2 * plan.table_token_bytes));
  fmt::print(
      "memory       {} with {} tokens a step, {} products, once every row was touched; this machine has "
      "{}{}\n",
      bytes_text(plan.memory_bytes), count_text(settings.train.batch.tokens_per_step),
      name_of(precision.narrow), bytes_text(memory_bytes()),
      plan.memory_bytes > 0.95 * memory_bytes() ? ": it does not fit" : "");
  for (const MemoryPart& part : plan.memory)
    fmt::print("             {:>9}  {}\n", bytes_text(part.bytes), part.name);
  fmt::print("budget       {} tokens, {} steps: {}FLOP\n", count_text(static_cast<std::int64_t>(plan.tokens)),
             count_text(static_cast<std::int64_t>(
                 plan.tokens / static_cast<double>(settings.train.batch.tokens_per_step) + 0.5)),
             scaled(plan.tokens * plan.training_flops()));
}

void print_time(const Options& o, const TrainPlan& plan, const MachineRates& rates, const StepTime& time,
                double steps, double tokens_per_step) {
  fmt::print("this machine {}\n", machine_text());
  fmt::print("             {}FLOP/s in this model's products (", scaled(rates.gemm_flops_per_s));
  for (std::size_t i = 0; i < rates.shapes.size(); ++i)
    fmt::print("{}{} {}", i == 0 ? "" : ", ", rates.shapes[i].name, scaled(rates.shapes[i].flops_per_s));
  fmt::print("); memory {}/s\n", bytes_text(rates.bytes_per_s));
  fmt::print(
      "time         about {} ({} tokens/s): assumes that products take {:.0f} % of a step without its "
      "update\n",
      time_text(time.total() * steps), count_text(static_cast<std::int64_t>(tokens_per_step / time.total())),
      100 * o.gemm_share);
  fmt::print("             (--gemm-share), and the update of {} a step runs at the memory's speed\n",
             bytes_text(plan.optimizer_bytes));
}

void run_plan(const Options& o) {
  Settings settings;
  settings.load_toml(config_path(o.config));
  for (const std::string& assignment : o.assignments) settings.set(assignment);
  const ModelConfig config = settings.resolve_model(o.vocab > 0 ? o.vocab : settings.tokenizer_vocab);
  const double tokens = o.tokens.empty() ? 0 : count_from_text(o.tokens, "--tokens");
  const std::int64_t n = settings.train.batch.tokens_per_step;
  Runtime runtime;
  const Precision precision = training_precision(settings.precision, config, std::min<std::int64_t>(n, 2048));
  const std::optional<ModelConfig> teacher = teacher_config(settings);
  const TrainPlan plan = plan_training(settings, config, precision, tokens, teacher ? &*teacher : nullptr);
  Json json = o.json ? plan_json(config, plan, precision) : Json();
  if (!o.json) print_plan(settings, config, plan, precision);
  if (!o.dry) {
    const MachineRates rates = measure_machine(runtime, config, precision, n);
    const StepTime time = step_time(plan, rates, n, o.gemm_share);
    const double steps = plan.tokens / static_cast<double>(n);
    if (o.json) {
      Json shapes = Json::array();
      for (const auto& s : rates.shapes)
        shapes.push_back({{"name", s.name},
                          {"rows", s.rows},
                          {"in", s.in},
                          {"out", s.out},
                          {"share", s.share},
                          {"flops_per_s", s.flops_per_s}});
      json["machine"] = {{"name", machine_text()},
                         {"gemm_flops_per_s", rates.gemm_flops_per_s},
                         {"bytes_per_s", rates.bytes_per_s},
                         {"shapes", shapes}};
      json["assumed_gemm_share"] = o.gemm_share;
      json["tokens_per_s"] = static_cast<double>(n) / time.total();
      json["hours"] = time.total() * steps / 3600;
    } else {
      print_time(o, plan, rates, time, steps, static_cast<double>(n));
    }
  }
  if (o.json) fmt::print("{}", dump_json(json));
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("plan-train", "parameters, FLOPs, memory and hours of a configuration");
  command->footer(Settings::help());
  command
      ->add_option("config", o->config,
                   "TOML settings, or the name of one that ships (small, medium, 350m, 1b)")
      ->required();
  command->add_option("--set", o->assignments, "a setting, key=value; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--vocab", o->vocab, "tokens of the vocabulary (default: tokenizer.vocab_size)")
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--tokens", o->tokens,
                      "tokens to train on, such as 100B (default: steps x tokens a step)");
  command->add_option("--gemm-share", o->gemm_share, "share of a step that matrix products are taken to be")
      ->check(number_in(0.05, 1.0))
      ->capture_default_str();
  command->add_flag("--no-measure", o->dry, "figures of the model alone, no calibration");
  command->add_flag("--json", o->json, "figures as JSON");
  command->callback([o] { run_plan(*o); });
}

}  // namespace stem
