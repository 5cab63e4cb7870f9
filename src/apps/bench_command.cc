// stem bench: how fast a model reads a prompt and writes an answer here, and how far that is from memory's
// limit.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>

#include "apps/commands.h"
#include "apps/kv_option.h"
#include "apps/memory_rate.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "apps/table_option.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/rng.h"
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

double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}
double median(std::vector<double> values) {
  return percentile(std::move(values), 0.5);
}

// What one token reads of the dense weights: every matrix once, the head too; of an untied embedding one row.
double weight_bytes(const Model& model) {
  if (model.served) {
    std::int64_t bytes = 0;
    const auto add = [&](const Weight& w) {
      if (w) bytes += w.served.rows * stored_row_bytes(w.served.format, w.served.cols);
    };
    for (const LayerWeights& w : model.served.layers) {
      for (const Weight& part : {w.qkv, w.qk, w.v, w.o, w.gate_up, w.down}) add(part);
    }
    add(model.served.head);
    return static_cast<double>(bytes);
  }
  std::int64_t values = model.config.tied ? 0 : model.config.width;
  for_each_tensor(model.config, model.gemm_weights(),
                  [&](const std::string&, const In& view, TensorKind) { values += view.size(); });
  return static_cast<double>(values * size_of(model.precision.narrow));
}

struct Timing {
  std::vector<double> prefill, decode,
      token;                                // seconds: of each prompt, of each answer, of each of its tokens
  double prompt_rows = 0, decode_rows = 0;  // distinct tokens, a run
  TableStats prompt_reads, decode_reads;    // of a table on disk, all runs
};

// Ids by Zipf's law, p(i) close to 1/(i + 1): the exponential of a uniform number.
std::vector<std::int32_t> zipf_ids(std::int64_t count, std::int64_t vocab, Rng& rng) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) {
    const double rank = std::exp(rng.uniform() * std::log(static_cast<double>(vocab)));
    ids.push_back(static_cast<std::int32_t>(
        std::clamp<std::int64_t>(static_cast<std::int64_t>(rank) - 1, 0, vocab - 1)));
  }
  return ids;
}

Timing measure(Runtime& runtime, const PatchedModel& opened, const Options& o, TraceWriter* trace) {
  Timing t;
  const auto mark = [&](std::string_view name, TraceWriter::Clock::time_point start) {
    if (trace != nullptr) trace->span(name, "model", start, TraceWriter::Clock::now());
  };
  Rng rng(1, 0);
  const std::int64_t vocab = opened.model().config.vocab;
  for (std::int64_t run = -1; run < o.repeats; ++run) {  // run −1 warms up
    const std::vector<std::int32_t> prompt = zipf_ids(o.prompt, vocab, rng),
                                    answer = zipf_ids(o.decode, vocab, rng);
    Session session(runtime.inference(), opened.model(), &opened.overlay, o.prompt + o.decode);
    RecordStore* const store = opened.model().table.store().get();
    const auto reads = [&] { return store == nullptr ? TableStats{} : store->stats(); };
    if (o.cold) store->drop();
    const TableStats at_first = reads();
    const auto start = std::chrono::steady_clock::now();
    session.feed(prompt);
    const double read = seconds_since(start);
    mark("prompt", start);
    const TableStats prompt_reads = reads().since(at_first);
    if (o.cold) store->drop();
    const TableStats at_prompt = reads();
    std::vector<double> each;
    for (const std::int32_t id : answer) {
      const auto before = std::chrono::steady_clock::now();
      sample(session.feed({&id, 1}), {}, 0);
      each.push_back(seconds_since(before));
      mark("token", before);
    }
    if (run < 0) continue;
    t.prompt_reads += prompt_reads;
    t.decode_reads += reads().since(at_prompt);
    t.prefill.push_back(read);
    double sum = 0;
    for (const double s : each) sum += s;
    t.decode.push_back(sum);
    t.token.insert(t.token.end(), each.begin(), each.end());
    const auto distinct = [](const std::vector<std::int32_t>& ids) {
      return static_cast<double>(std::set(ids.begin(), ids.end()).size());
    };
    t.prompt_rows += distinct(prompt) / static_cast<double>(o.repeats);
    t.decode_rows += distinct(answer) / static_cast<double>(o.repeats);
  }
  return t;
}

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
  const Timing t = measure(runtime, opened, o, trace.get());
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
