// stem eval: perplexity on text, accuracy and swap scores on a fact suite.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.h"
#include "apps/fact_eval.h"
#include "data/text_source.h"
#include "train/trainer.h"

namespace stem {
namespace {

struct Options {
  std::string model, facts;
  std::vector<std::string> texts, patches;
  std::int64_t sequence = 0;
  bool swaps = false, json = false;
};

Json eval_text(Runtime& runtime, const PatchedModel& opened, const Options& o, const std::string& path) {
  const TokenShard shard = tokenize(opened.tokenizer(), read_documents(path), "");
  BatchOptions batch;
  batch.max_sequence = o.sequence > 0 ? std::min(o.sequence, opened.model().config.max_positions)
                                      : opened.model().config.max_positions;
  batch.tokens_per_step = std::max<std::int64_t>(2048, batch.max_sequence);
  const EvalResult r =
      evaluate_loss(runtime.training(), opened.model(), shard, batch, nullptr, &opened.overlay);
  return {{"text", path},
          {"documents", shard.document_count()},
          {"targets", r.targets},
          {"loss", r.loss},
          {"perplexity", r.perplexity()}};
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

void run_eval(const Options& o) {
  if (o.texts.empty() && o.facts.empty())
    fail(ErrorCode::kUsage, "eval: expected --text FILE or --facts FILE, found neither");
  if (o.swaps && o.facts.empty()) fail(ErrorCode::kUsage, "--swaps: expected --facts FILE beside it");
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, o.patches);
  Json result{{"model", o.model}, {"patches", opened.patches.size()}};
  for (const std::string& text : o.texts) {
    const Json r = eval_text(runtime, opened, o, text);
    if (!o.json)
      fmt::print("{}: perplexity {:.3f}  (loss {:.4f} nats over {} tokens)\n", text,
                 r["perplexity"].get<double>(), r["loss"].get<double>(), r["targets"].get<std::int64_t>());
    result["texts"].push_back(r);
  }
  if (!o.facts.empty()) {
    const FactSuite suite = load_facts(o.facts);
    for (const TemplateAccuracy& t : fact_accuracy(runtime.training(), opened, suite)) {
      if (!o.json)
        fmt::print("{:<22} {:>6.1f} %  of {:>4}  {}{}\n", t.id,
                   t.cases == 0 ? 0.0 : 100.0 * static_cast<double>(t.correct) / static_cast<double>(t.cases),
                   t.cases, t.text, t.seen ? "" : "  (wording never trained)");
      result["facts"].push_back(accuracy_json(t));
    }
    if (o.swaps) {
      const SwapScores scores = score_swaps(runtime.training(), opened.loaded, suite, 0, o.json);
      for (const SwapScore& s : scores.templates) {
        if (!o.json)
          fmt::print("{:<22} swap {:>5.1f} %  own {:>5.1f} %  of {} pairs\n", s.id,
                     s.pairs == 0 ? 0.0 : 100.0 * static_cast<double>(s.donor) / static_cast<double>(s.pairs),
                     s.pairs == 0 ? 0.0 : 100.0 * static_cast<double>(s.own) / static_cast<double>(s.pairs),
                     s.pairs);
      }
      result["swaps"] = to_json(scores);
    }
  }
  if (o.json) fmt::print("{}", dump_json(result));
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "perplexity on text, accuracy on a fact suite");
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("--text", o->texts, "text, JSONL or folder to measure perplexity on; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--sequence", o->sequence, "longest sequence in tokens (default: the model's context)")
      ->check(CLI::Range(2, 1 << 24));
  command->add_option("--facts", o->facts, "fact suite (facts.json of a data directory)");
  command->add_flag("--swaps", o->swaps, "score swaps over all ordered pairs of single-token countries too");
  command->add_option("--patch", o->patches, "patch to put in force; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--json", o->json, "figures as JSON");
  command->callback([o] { run_eval(*o); });
}

}  // namespace stem
