// stem bench: how fast a model reads a prompt and writes an answer here, and how far that is from memory's
// limit.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "apps/commands.h"
#include "apps/kv_option.h"
#include "apps/memory_rate.h"
#include "apps/model_speed.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "apps/table_option.h"
#include "core/error.h"
#include "core/trace.h"

namespace stem {
namespace {

struct Options {
  std::string model, trace;
  std::int64_t prompt = 512, decode = 64, repeats = 3;
  bool prompt_given = false, decode_given = false;
  bool json = false, cold = false;
  LoadOptions load{.serving = true};
};

// What was not asked for shrinks to what the context holds.
void fit(Options& o, std::int64_t context) {
  if (!o.decode_given) {
    const std::int64_t room = o.prompt_given ? context - o.prompt : context / 2;
    o.decode = std::clamp<std::int64_t>(room, 1, o.decode);
  }
  if (!o.prompt_given) o.prompt = std::clamp<std::int64_t>(context - o.decode, 1, o.prompt);
}

void run_bench(Options o) {
  std::unique_ptr<TraceWriter> trace;  // outlives the table's store, which writes to it
  if (!o.trace.empty()) trace = std::make_unique<TraceWriter>(o.trace);
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, {}, o.load);
  RecordStore* const store = opened.model().table.store().get();
  if (o.cold && !opened.model().table.present())
    fail(ErrorCode::kUsage, "--cold: expected a model with a STEM table, found {} without one", o.model);
  if (o.cold && store == nullptr)
    fail(ErrorCode::kUsage, "--cold: expected a table on disk (--table disk:BUDGET), found --table {}",
         placement_text(o.load.table.placement));
  const ModelConfig& c = opened.model().config;
  fit(o, c.max_positions);
  if (o.prompt + o.decode > c.max_positions)
    fail(ErrorCode::kUsage,
         "--prompt and --decode: expected at most {} tokens together (max_position_embeddings), found {}",
         c.max_positions, o.prompt + o.decode);
  const double bandwidth = memory_read_rate(), weights = weight_bytes(opened.model());
  const Table& table = opened.model().table;
  const double record = table.present() ? static_cast<double>(table.record_bytes()) : 0.0;
  // Halfway through the answer, keys and values of every layer.
  const double cached = static_cast<double>((o.prompt + o.decode / 2) * KvCache::row_bytes(opened.model()));
  if (store != nullptr) store->trace(trace.get());
  const SpeedOptions speed{o.prompt, o.decode, o.repeats, o.cold};
  const Timing t = measure_speed(runtime, opened, speed, trace.get());
  if (store != nullptr) store->trace(nullptr);
  if (trace != nullptr) trace->finish();
  const double ttft = median(t.prefill), prefill = static_cast<double>(o.prompt) / ttft,
               decode = static_cast<double>(o.decode) / median(t.decode),
               rate = decode * (weights + record + cached);
  const double p50 = median(t.token), p99 = percentile(t.token, 0.99);
  if (o.json) {
    Json placed{{"placement", placement_text(o.load.table.placement)}};
    if (store != nullptr) {
      placed["read_path"] = store->queue().description();
      placed["cold"] = o.cold;
      placed["prompt"] = table_figures(t.prompt_reads, o.repeats * o.prompt);
      placed["decode"] = table_figures(t.decode_reads, o.repeats * o.decode);
    }
    fmt::print("{}", dump_json({{"model", o.model},
                                {"machine", machine_text()},
                                {"read_bytes_per_s", bandwidth},
                                {"weight_bytes_per_token", weights},
                                {"cache_bytes_per_token", cached},
                                {"record_bytes", record},
                                {"prompt_tokens", o.prompt},
                                {"prefill_tokens_per_s", prefill},
                                {"ttft_s", ttft},
                                {"decode_tokens", o.decode},
                                {"decode_tokens_per_s", decode},
                                {"decode_bytes_per_s", rate},
                                {"share_of_read_bandwidth", rate / bandwidth},
                                {"itl_p50_s", p50},
                                {"itl_p99_s", p99},
                                {"distinct_rows_prompt", t.prompt_rows},
                                {"distinct_rows_decode", t.decode_rows},
                                {"table", placed}}));
    return;
  }
  fmt::print("machine  {}; memory reads {}/s\n", machine_text(), bytes_text(bandwidth));
  fmt::print("prefill  {} tokens: {:.1f} tokens/s, first token after {:.1f} ms\n", count_text(o.prompt),
             prefill, 1e3 * ttft);
  fmt::print("decode   {} tokens: {:.1f} tokens/s; between tokens {:.1f} ms (half), {:.1f} ms (99 %)\n",
             count_text(o.decode), decode, 1e3 * p50, 1e3 * p99);
  fmt::print(
      "         a token reads {} of weights and {} of keys and values: {}/s, {:.0f} % of what memory gives\n",
      bytes_text(weights), bytes_text(cached), bytes_text(rate), 100 * rate / bandwidth);
  if (record > 0)
    fmt::print("table    {} a record; {:.0f} distinct rows in a prompt, {:.0f} in an answer\n",
               bytes_text(record), t.prompt_rows, t.decode_rows);
  if (store != nullptr) {
    fmt::print("disk     {}; the budget holds {} records{}\n", store->queue().description(),
               count_text(store->capacity()), o.cold ? "; emptied before each prompt and each answer" : "");
    fmt::print("         prompt: {}\n", table_figures_text(t.prompt_reads, o.repeats * o.prompt));
    fmt::print("         answer: {}\n", table_figures_text(t.decode_reads, o.repeats * o.decode));
  }
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("bench", "time a model here: prompts, answers, share of memory's rate");
  command->footer("One sequence, ids by Zipf's law, medians over the repeats.\n");
  command->add_option("model", o->model, "model directory")->required();
  CLI::Option* const prompt =
      command->add_option("--prompt", o->prompt, "tokens of the prompt; fewer if the context is shorter")
          ->check(CLI::Range(1, 1 << 20))
          ->capture_default_str();
  CLI::Option* const decode =
      command->add_option("--decode", o->decode, "tokens of the answer; fewer if the context is shorter")
          ->check(CLI::Range(1, 1 << 20))
          ->capture_default_str();
  command->add_option("--repeats", o->repeats, "runs")->check(CLI::Range(1, 1000))->capture_default_str();
  add_table_option(*command, o->load);
  add_kv_option(*command, o->load);
  command->add_flag("--cold", o->cold,
                    "with a table on disk: nothing of it in memory before each prompt and each answer");
  command->add_flag("!--no-verify", o->load.verify,
                    "do not check the model's digests first (a large table takes a while)");
  command->add_option(
      "--trace", o->trace,
      "write a timeline for chrome://tracing or Perfetto: tokens, reads of the table, waits for them");
  command->add_flag("--json", o->json, "the figures as JSON");
  command->callback([o, prompt, decode] {
    o->prompt_given = prompt->count() > 0;
    o->decode_given = decode->count() > 0;
    run_bench(*o);
  });
}

}  // namespace stem
