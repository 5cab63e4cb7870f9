// stem convert: a dense model becomes a STEM model.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/convert_compare.h"
#include "apps/convert_run.h"
#include "apps/option_checks.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "apps/suite_eval.h"
#include "core/clock.h"
#include "core/error.h"
#include "io/file.h"
#include "report/conversion_report.h"
#include "report/fields.h"
#include "report/html.h"

namespace stem {
namespace {

struct Options {
  ConvertSettings settings;
  CompareOptions compare;
  std::vector<std::string> suites;
  std::string model, out, teacher, report;
  std::optional<double> heal_lr;
  bool replace = false, json = false;
};

void print_result(const Json& r) {
  std::vector<std::int64_t> layers;
  for (const Json& l : objects_of(r, "layers")) layers.push_back(l["layer"].get<std::int64_t>());
  fmt::print("{}: layer{} {} read{} rows\n", string_of(r, "model"), layers.size() == 1 ? "" : "s",
             fmt::join(layers, ", "), layers.size() == 1 ? "s" : "");
  const auto row_tokens = r["row_tokens"].get<std::int64_t>();
  fmt::print(
      "calibrated on {} tokens{}; {} of the vocabulary's {} never occur there, nor do {:.1f} % of the tokens "
      "judged on\n",
      count_text(r["calibration_tokens"].get<std::int64_t>()),
      row_tokens > 0 ? fmt::format(", rows on {} further ones", count_text(row_tokens)) : "",
      count_text(r["vocab"].get<std::int64_t>() - r["distinct_tokens"].get<std::int64_t>()),
      count_text(r["vocab"].get<std::int64_t>()), 100 * number_of(r, "unseen_share"));
  const auto line = [](const Json& l) {
    fmt::print("  {:<24} {:>9} {:>9.3f} {:>9.3f} {:>7.3f} {:>7.4f}\n", shortened(string_of(l, "name"), 24),
               count_text(l["positions"].get<std::int64_t>()), number_of(l, "dense_perplexity"),
               number_of(l, "perplexity"), number_of(l, "perplexity") / number_of(l, "dense_perplexity"),
               number_of(l, "kl"));
  };
  fmt::print(
      "perplexity on {}, and KL from the dense model's predictions (nats a token):\n"
      "  {:<24} {:>9} {:>9} {:>9} {:>7} {:>7}\n",
      string_of(r, "judged_on"), "", "tokens", "before", "after", "ratio", "KL");
  for (const Json& l : objects_of(r, "by_text")) line(l);
  line(r["all"]);
  fmt::print("after tokens that the rows were made from so often:\n");
  for (const Json& l : objects_of(r, "by_frequency")) line(l);
}

void print_comparison(const Json& r) {
  const auto line = [](std::string_view name, const std::string& before, const std::string& after,
                       std::string_view note) {
    fmt::print("  {:<44} {:>10} {:>10}{}{}\n", shortened(std::string(name), 44), before, after,
               note.empty() ? "" : "  ", note);
  };
  line("", "before", "after", "");
  if (const Json* speed = object_of(r, "speed")) {
    const Json &dense = (*speed)["dense"], &made = (*speed)["converted"];
    const auto pair = [&](const char* name, const char* key, auto text) {
      line(name, text(number_of(dense, key)), text(number_of(made, key)), "");
    };
    pair("prompt, tokens/s", "prefill_tokens_per_s", rate);
    pair("answer, tokens/s", "decode_tokens_per_s", rate);
    pair("weights in memory", "weight_bytes", bytes_text);
    pair("table", "table_bytes", bytes_text);
  }
  for (const Json& s : objects_of(r, "suites"))
    line(
        fmt::format("{}, {}, {} items", string_of(s, "name"), string_of(s, "metric"), count_text(s["items"])),
        fmt::format("{:.1f}", 100 * number_of(s, "dense")),
        fmt::format("{:.1f}", 100 * number_of(s, "converted")),
        fmt::format("%, ± {:.1f}", 100 * number_of(s, "standard_error")));
  for (const Json& f : objects_of(r, "facts"))
    line(one_line(string_of(f, "text")), count_text(f["dense"]), count_text(f["converted"]),
         fmt::format("right of {}", count_text(f["cases"])));
}

// Where every layer was refitted a higher rate undoes what least squares found (decision 0016).
double heal_rate(RefitScope refit) {
  return refit == RefitScope::all ? 1e-4 : 3e-4;
}

void run_convert(Options& o) {
  o.settings.model = o.model;
  o.settings.out = o.out;
  o.settings.quiet = o.json;
  o.settings.teacher = o.teacher;
  o.settings.heal.lr = o.heal_lr.value_or(heal_rate(o.settings.options.refit));
  require_new_model(o.out, o.replace || conversion_unreported(o.out), o.model);
  if (!o.report.empty()) {
    require_page_place(o.report);
    if (whole_path(o.report).parent_path() == whole_path(o.out))
      fail(ErrorCode::kUsage, "--report: expected a file outside of {}, found {}", o.out, o.report);
  }
  o.compare.suites = named_suite_files(o.suites);
  o.compare.quiet = o.json;
  check_compare_files(o.compare);
  const auto start = std::chrono::steady_clock::now();
  Runtime runtime;
  Json result = convert_model(runtime, o.settings);
  result["seconds"] = seconds_since(start);
  result.update(compare_models(runtime, o.model, o.out, o.compare));
  const std::filesystem::path report =
      o.report.empty() ? run_directory(o.out) / "conversion.html" : std::filesystem::path(o.report);
  write_file_atomic(report, conversion_report(result));
  conversion_reported(o.out);
  if (o.json) {
    fmt::print("{}", dump_json(result));
    return;
  }
  print_result(result);
  print_comparison(result);
  fmt::print("as a page: {}\n", report.string());
  fmt::print("{}, at most {} of memory\n", duration_text(number_of(result, "seconds")),
             bytes_text(number_of(result, "peak_resident_bytes")));
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  ConvertSettings& s = o->settings;
  CLI::App* command =
      app.add_subcommand("convert", "make a STEM model of a dense one: rows calibrated on text");
  command->footer(
      "Rows are the means of what the up-projection gave over a token's occurrences, weighted by the gate; "
      "W_d is refitted.\n"
      "A run that was stopped goes on with the same command. Guide: docs/guide/convert.md\n");
  command->add_option("model", o->model, "dense model directory (stem import makes one)")->required();
  command->add_option("-o,--out", o->out, "model directory to write")->required();
  command->add_option("--calibrate", s.calibrate, "text, JSONL or folder to calibrate on; may be repeated")
      ->required()
      ->check(not_empty())
      ->allow_extra_args(false);
  command
      ->add_option("--held-out", s.held_out,
                   "text to judge the result on; may be repeated (default: a part of the calibration's)")
      ->check(not_empty())
      ->allow_extra_args(false);
  command
      ->add_option("--layers", s.layers,
                   "best:N by least damage, third (layers 0, 3, 6, …), half, full, or a list such as 0,4")
      ->check(not_empty())
      ->default_str("best:10, or all of fewer");
  command->add_option("--tokens", s.limits.calibration, "tokens to calibrate on, at most")
      ->check(CLI::Range(std::int64_t{64}, std::int64_t{1} << 32))
      ->capture_default_str();
  command->add_option("--damage-tokens", s.damage_tokens, "of these, to choose layers by")
      ->check(CLI::Range(std::int64_t{64}, std::int64_t{1} << 32))
      ->capture_default_str();
  command
      ->add_option("--row-tokens", s.row_tokens,
                   "further tokens, at most, to update the rows alone by when all layers are done")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 32))
      ->capture_default_str();
  command->add_option("--sequence", s.limits.sequence, "tokens that are read together")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--prior", s.options.prior,
                   "occurrences that the guess from a token's embedding counts as in its row")
      ->check(number_in(0.0, 1e6))
      ->capture_default_str();
  command->add_option("--ridge", s.options.ridge, "of the refits, towards the dense weights")
      ->check(number_in(1e-6, 1e6))
      ->capture_default_str();
  command
      ->add_option("--catch-up", s.options.catch_up,
                   "share of earlier layers' error that the refits are to make up for")
      ->check(number_in(0.0, 1.0))
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--refit",
          [o](const std::string& name) {
            o->settings.options.refit = name == "all" ? RefitScope::all : RefitScope::converted;
          },
          "what makes up for what is lost: W_d of the converted layers, or besides W_d and W_o of every "
          "layer "
          "behind the first converted one (more is kept, twice the time)")
      ->check(CLI::IsMember({"all", "converted"}))
      ->default_str(std::string(name_of(s.options.refit)));
  command->add_option("--heal", s.heal.tokens, "tokens to distil on afterwards")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--heal-scope",
          [o](const std::string& name) {
            o->settings.heal.scope = name == "ffn" ? HealScope::ffn : HealScope::all;
          },
          "what learns besides the rows: all weights but the embedding, or ffn, the converted layers' W_g "
          "and W_d")
      ->check(CLI::IsMember({"all", "ffn"}))
      ->default_str(std::string(name_of(s.heal.scope)));
  command->add_option("--teacher", o->teacher, "model to heal towards (default: the dense model itself)")
      ->check(not_empty());
  command->add_option("--heal-lr", o->heal_lr, "learning rate of the weights")
      ->check(number_in(0.0, 1.0))
      ->default_str(fmt::format("{}, behind --refit all {}", heal_rate(RefitScope::converted),
                                heal_rate(RefitScope::all)));
  command->add_option("--heal-row-lr", s.heal.row_lr, "of the rows, in root mean squares of the table")
      ->check(number_in(0.0, 10.0))
      ->capture_default_str();
  command->add_option("--suite", o->suites, "NAME=FILE: benchmark to score before and after; may be repeated")
      ->allow_extra_args(false);
  command
      ->add_option("--facts", o->compare.facts,
                   "fact suite to ask before and after, for example data/capitals.json")
      ->check(not_empty());
  command->add_option("--report", o->report, "HTML page to write (default: conversion.html in OUT.run)")
      ->check(not_empty());
  command->add_flag("--replace", o->replace, "in place of a model of this name");
  command->add_flag("--json", o->json, "figures as JSON, no progress");
  command->callback([o, command] {
    for (const char* const name : {"--heal-scope", "--teacher", "--heal-lr", "--heal-row-lr"})
      if (command->count(name) > 0 && o->settings.heal.tokens == 0)
        fail(ErrorCode::kUsage, "{}: expected --heal TOKENS beside it", name);
    run_convert(*o);
  });
}

}  // namespace stem
