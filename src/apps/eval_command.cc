// stem eval: perplexity on text, accuracy and swap scores on a fact suite, benchmark suites.
#include <CLI/CLI.hpp>
#include <cmath>
#include <map>
#include <memory>
#include <numbers>
#include <optional>

#include "apps/commands.h"
#include "apps/fact_eval.h"
#include "apps/kv_option.h"
#include "apps/progress.h"
#include "apps/suite_eval.h"
#include "apps/table_option.h"
#include "core/names.h"
#include "data/text_source.h"
#include "io/file.h"
#include "train/trainer.h"

namespace stem {
namespace {

struct Options {
  std::string model, facts, per_item;
  std::vector<std::string> texts, patches;
  std::vector<std::string> suites, forms, templates, shots, shots_from;  // NAME=VALUE
  std::int64_t sequence = 0, limit = 0, max_new_tokens = 256;
  bool swaps = false, json = false;
  LoadOptions load{.serving = true};
};

struct NamedSuite {
  std::string name;
  Suite suite;
};

// "NAME=VALUE"; without a name the value goes to every suite where `for_all` allows that.
class NamedValues {
 public:
  NamedValues(const char* option, const std::vector<std::string>& assignments, bool for_all = false)
      : option_(option) {
    for (const std::string& text : assignments) {
      const std::size_t mark = text.find('=');
      const std::string name = mark == std::string::npos ? "" : text.substr(0, mark);
      if (mark == 0 || (mark == std::string::npos && !for_all))
        fail(ErrorCode::kUsage, "{}: expected NAME=VALUE, found {}", option, shown(Json(text)));
      if (!values_.emplace(name, text.substr(mark == std::string::npos ? 0 : mark + 1)).second)
        fail(ErrorCode::kUsage, "{}: expected each name once, found {} twice", option, shown(Json(name)));
    }
  }
  std::optional<std::string> find(const std::string& name) const {
    auto found = values_.find(name);
    if (found == values_.end()) found = values_.find("");
    return found == values_.end() ? std::nullopt : std::optional(found->second);
  }
  void check_names(const std::vector<std::string>& known) const {
    for (const auto& [name, value] : values_) {
      if (name.empty() || std::find(known.begin(), known.end(), name) != known.end()) continue;
      fail(ErrorCode::kUsage, "{}: expected the name of a --suite, found {}{}", option_, shown(Json(name)),
           did_you_mean(name, known));
    }
  }

 private:
  const char* option_;
  std::map<std::string, std::string> values_;
};

std::int64_t shot_count(const std::string& text) {
  const bool digits =
      !text.empty() && text.size() <= 4 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits)
    fail(ErrorCode::kUsage, "--shots: expected a number in [0, 9999], found {}", shown(Json(text)));
  return std::stoll(text);
}

// "\n" as typed in a shell is two characters.
std::string with_line_breaks(std::string text) {
  for (std::size_t at = text.find("\\n"); at != std::string::npos; at = text.find("\\n", at + 1))
    text.replace(at, 2, "\n");
  return text;
}

std::vector<NamedSuite> load_suites(const Options& o) {
  const NamedValues forms("--form", o.forms), templates("--template", o.templates),
      shots("--shots", o.shots, true), shots_from("--shots-from", o.shots_from);
  const auto asked = named_suite_files(o.suites);
  std::vector<std::string> names;
  for (const auto& [name, path] : asked) names.push_back(name);
  for (const NamedValues* values : {&forms, &templates, &shots, &shots_from}) values->check_names(names);
  std::vector<NamedSuite> suites;
  for (const auto& [name, path] : asked) {
    SuiteOptions options;
    if (const auto form = forms.find(name)) options.form = suite_form_from(*form);
    if (const auto text = templates.find(name)) options.query_template = with_line_breaks(*text);
    if (const auto count = shots.find(name)) options.shots = shot_count(*count);
    options.shots_from = shots_from.find(name).value_or("");
    options.limit = o.limit;
    suites.push_back({name, load_suite(path, options)});
  }
  return suites;
}

// Bytes of the tokens that evaluate_loss scores: all but the first of every sequence.
std::int64_t target_bytes(const Tokenizer& tokenizer, const TokenShard& shard, std::int64_t sequence) {
  std::int64_t bytes = 0;
  for (std::size_t d = 0; d + 1 < shard.documents.size(); ++d) {
    for (std::int64_t i = shard.documents[d]; i < shard.documents[d + 1]; ++i) {
      if ((i - shard.documents[d]) % sequence == 0) continue;
      bytes +=
          static_cast<std::int64_t>(tokenizer.token_bytes(shard.tokens[static_cast<std::size_t>(i)]).size());
    }
  }
  return bytes;
}

// Served weights and chosen keys are for inference alone; else the kernels of training are quicker.
Context text_context(Runtime& runtime, const PatchedModel& opened) {
  const Model& model = opened.model();
  return model.served || model.kv_dtype ? runtime.inference() : runtime.training();
}

Json eval_text(Runtime& runtime, const PatchedModel& opened, const Options& o, const std::string& path) {
  const TokenShard shard = tokenize(opened.tokenizer(), read_documents(path), "");
  BatchOptions batch;
  batch.max_sequence = o.sequence > 0 ? std::min(o.sequence, opened.model().config.max_positions)
                                      : opened.model().config.max_positions;
  batch.tokens_per_step = std::max<std::int64_t>(2048, batch.max_sequence);
  const EvalResult r =
      evaluate_loss(text_context(runtime, opened), opened.model(), shard, batch, nullptr, &opened.overlay);
  const std::int64_t bytes = target_bytes(opened.tokenizer(), shard, batch.max_sequence);
  return {{"text", path},
          {"documents", shard.document_count()},
          {"targets", r.targets},
          {"target_bytes", bytes},
          {"loss", r.loss},
          {"bits_per_byte",
           r.loss * static_cast<double>(r.targets) / (std::numbers::ln2 * static_cast<double>(bytes))},
          {"perplexity", r.perplexity()}};
}

void print_text(const std::string& text, const Json& r) {
  fmt::print("{}: perplexity {:.3f}  (loss {:.4f} nats over {} tokens, {:.4f} bits per byte)\n", text,
             r["perplexity"].get<double>(), r["loss"].get<double>(), r["targets"].get<std::int64_t>(),
             r["bits_per_byte"].get<double>());
}

Json accuracy_json(const TemplateAccuracy& t) {
  return {{"id", t.id},
          {"text", t.text},
          {"relation", t.relation},
          {"seen", t.seen},
          {"cases", t.cases},
          {"correct", t.correct},
          {"accuracy", t.cases == 0 ? 0.0 : static_cast<double>(t.correct) / static_cast<double>(t.cases)}};
}

void eval_facts(Runtime& runtime, const PatchedModel& opened, const Options& o, Json& result) {
  const FactSuite suite = load_facts(o.facts);
  if (o.swaps && !opened.model().table.present() && !opened.loaded.reference) {
    fail(ErrorCode::kUsage, "{}: expected a model whose rows swaps can read, found {}", o.model,
         opened.model().config.has_table()
             ? "rows of zeros without reference rows (stem attach-rows --calibrate TEXT makes them)"
             : "no STEM table");
  }
  for (const TemplateAccuracy& t : fact_accuracy(text_context(runtime, opened), opened, suite)) {
    if (!o.json)
      fmt::print("{:<22} {:>6.1f} %  of {:>4}  {}{}\n", t.id,
                 t.cases == 0 ? 0.0 : 100.0 * static_cast<double>(t.correct) / static_cast<double>(t.cases),
                 t.cases, one_line(t.text), t.seen ? "" : "  (wording never trained)");
    result["facts"].push_back(accuracy_json(t));
  }
  if (!o.swaps) return;
  const SwapScores scores = score_swaps(text_context(runtime, opened), opened.loaded, suite, 0, o.json);
  for (const SwapScore& s : scores.templates) {
    if (!o.json && s.pairs == 0)
      fmt::print("{:<22} no pair of countries whose answers the model says\n", s.id);
    else if (!o.json)
      fmt::print("{:<22} swap {:>5.1f} %  own {:>5.1f} %  of {} pairs\n", s.id,
                 100.0 * static_cast<double>(s.donor) / static_cast<double>(s.pairs),
                 100.0 * static_cast<double>(s.own) / static_cast<double>(s.pairs), s.pairs);
  }
  result["swaps"] = to_json(scores);
}

void eval_suites(Runtime& runtime, const PatchedModel& opened, const Options& o,
                 const std::vector<NamedSuite>& suites, Json& result) {
  std::optional<FileWriter> list;
  if (!o.per_item.empty()) list.emplace(o.per_item);
  std::vector<SuiteResult> results;
  for (const NamedSuite& s : suites) {
    const auto total = static_cast<std::int64_t>(s.suite.items.size());
    Progress progress(s.name, total, o.json);
    SuiteEvalOptions options;
    options.max_new_tokens = o.max_new_tokens;
    options.on_progress = [&](std::int64_t done) {
      progress.update(done, fmt::format("{} of {} items", done, total));
    };
    if (list)
      options.on_item = [&](const Json& item) {
        list->write(item.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
      };
    results.push_back(evaluate_suite(runtime.inference(), opened, s.name, s.suite, options));
    progress.finish();
    const SuiteResult& r = results.back();
    if (r.cut_items > 0 && !o.json) {
      fmt::print(stderr, "{}: {} of {} items lost the front of their prompt: the context holds {} tokens\n",
                 s.name, r.cut_items, r.all.items, opened.model().config.max_positions);
    }
    result["suites"].push_back(to_json(r));
  }
  if (list) list->close();
  if (!o.json) fmt::print("{}", table_text(results));
}

void run_eval(const Options& o) {
  if (o.texts.empty() && o.facts.empty() && o.suites.empty())
    fail(ErrorCode::kUsage, "eval: expected --text FILE, --facts FILE or --suite NAME=FILE, found none");
  if (o.swaps && o.facts.empty()) fail(ErrorCode::kUsage, "--swaps: expected --facts FILE beside it");
  if (!o.per_item.empty() && o.suites.empty())
    fail(ErrorCode::kUsage, "--per-item: expected --suite NAME=FILE beside it");
  const std::vector<NamedSuite> suites = load_suites(o);  // faults in files come before the work
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, o.patches, o.load);
  Json result{{"model", o.model}, {"patches", opened.patches.size()}};
  for (const std::string& text : o.texts) {
    const Json r = eval_text(runtime, opened, o, text);
    if (!o.json) print_text(text, r);
    result["texts"].push_back(r);
  }
  if (!o.facts.empty()) eval_facts(runtime, opened, o, result);
  if (!suites.empty()) eval_suites(runtime, opened, o, suites, result);
  if (o.json) fmt::print("{}", dump_json(result));
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("eval", "perplexity on text, accuracy on facts and benchmark suites");
  const auto repeated = [&](const char* name, std::vector<std::string>& into, const char* text) {
    command->add_option(name, into, text)->allow_extra_args(false);
  };
  command->add_option("model", o->model, "model directory")->required();
  repeated("--text", o->texts, "text, JSONL or folder to measure perplexity on; may be repeated");
  command->add_option("--sequence", o->sequence, "longest sequence in tokens (default: the model's context)")
      ->check(CLI::Range(2, 1 << 24));
  command->add_option("--facts", o->facts, "fact suite (facts.json of a data directory)");
  command->add_flag("--swaps", o->swaps, "score swaps over all ordered pairs of single-token countries too");
  repeated(
      "--suite", o->suites,
      "benchmark NAME=FILE, its form recognised: multiple choice (JSONL, MMLU's CSV or a folder of them, "
      "HellaSwag's text), last word, answers; may be repeated");
  repeated("--form", o->forms, "NAME=choice, mmlu, hellaswag, last-word or answer instead");
  repeated("--template", o->templates, "NAME=TEXT with {query}; \\n breaks the line");
  repeated("--shots", o->shots, "worked examples before each item: N, or NAME=N");
  repeated("--shots-from", o->shots_from, "NAME=FILE (MMLU: folder) that the examples come from");
  command->add_option("--limit", o->limit, "first N items of each suite, of MMLU's subjects each")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--max-new-tokens", o->max_new_tokens, "longest answer that is generated")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--per-item", o->per_item, "JSONL file to write, a line an item with its scores");
  repeated("--patch", o->patches, "patch to put in force; may be repeated");
  add_table_option(*command, o->load);
  add_kv_option(*command, o->load);
  command->add_flag("--json", o->json, "figures as JSON");
  command->callback([o] { run_eval(*o); });
}

}  // namespace stem
