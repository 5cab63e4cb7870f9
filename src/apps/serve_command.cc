// stem serve: a model behind OpenAI's API.
#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>
#include <memory>
#include <thread>

#include "apps/commands.h"
#include "apps/interrupt.h"
#include "apps/kv_option.h"
#include "apps/option_checks.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "apps/table_option.h"
#include "kernels/cpu/cpu.h"
#include "serve/api_server.h"

namespace stem {
namespace {

struct Options {
  std::string model, name, api_keys, trace;
  std::vector<std::string> patches;
  LoadOptions load;
  EngineOptions engine;
  ApiOptions api;
  std::uint64_t kv_memory = 0, max_body = std::uint64_t{8} << 20;
};

std::string served_name(const Options& o) {
  if (!o.name.empty()) return o.name;
  const std::filesystem::path path = std::filesystem::absolute(o.model).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

void run_serve(Options o) {
  const InterruptGuard guard;
  Runtime runtime;
  o.load.serving = true;
  const PatchedModel opened = open_model(runtime, o.model, o.patches, o.load);
  if (!o.api_keys.empty()) o.api.keys = read_api_keys(o.api_keys);
  std::unique_ptr<TraceWriter> trace;
  if (!o.trace.empty()) trace = std::make_unique<TraceWriter>(o.trace);
  o.engine.trace = trace.get();
  o.engine.kv_bytes = static_cast<std::int64_t>(o.kv_memory);
  o.engine.on_thread_start = [] { set_cpu_threads(0); };
  o.api.service.max_body_bytes = o.max_body;
  Engine engine(runtime.inference(), opened.model(), opened.tokenizer(), &opened.overlay, o.engine);
  const ServedModel served{served_name(o), static_cast<std::int64_t>(std::time(nullptr))};
  ApiServer server(engine, opened.tokenizer(), served, o.api);
  fmt::print("http://{}:{}\n", o.api.http.host, server.port());
  std::fflush(stdout);
  fmt::print(stderr, "{}: contexts of {} tokens, {} at once, KV cache of {} rows; {}\n", served.name,
             engine.context(), engine.options().slots, engine.stats().kv_rows, machine_text());
  while (InterruptGuard::pending() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  fmt::print(stderr, "finishing {} answers; once more ends at once\n",
             engine.stats().running + engine.stats().waiting);
  server.drain();
  if (trace != nullptr) trace->finish();
}

void add_engine_options(CLI::App& command, Options& o) {
  command.add_option("--context", o.engine.context, "most tokens of a prompt and its answer; 0: the model's")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command.add_option("--slots", o.engine.slots, "most answers being made at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--kv-memory", o.kv_memory, "of the KV cache, as 512M; 0: all slots' contexts, at most 1G")
      ->transform(CLI::AsSizeValue(false));
  command.add_option("--max-queue", o.engine.queue, "most answers that wait; beyond: 429")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_option("--step-tokens", o.engine.step_tokens, "most tokens of a pass")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command.add_option("--guesses", o.engine.guesses, "tokens guessed ahead by prompt lookup; 0: none")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  command.add_flag("!--no-prefix-cache", o.engine.prefix_cache, "read every prompt from its beginning");
}

}  // namespace

void add_serve_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  o->engine.guesses = 5;  // they pay or cost nothing: docs/measurements.md
  CLI::App* command = app.add_subcommand("serve", "serve a model over HTTP: OpenAI's API, a chat page at /");
  command->footer(
      "Prints its address when it is ready. SIGTERM or Ctrl-C: takes no new requests, finishes what runs, "
      "ends "
      "with 0; a second one ends at once.\n");
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("--host", o->api.http.host, "address to listen on")->capture_default_str();
  command->add_option("--port", o->api.http.port, "0: any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--name", o->name, "the model's name for clients; the directory's if absent");
  command->add_option("--api-keys", o->api_keys, "file of keys, one a line, of which clients must show one");
  command->add_option("--max-body", o->max_body, "most bytes of a request, as 8M")
      ->transform(CLI::AsSizeValue(false));
  command->add_option("--max-connections", o->api.http.max_connections, "each has a thread; beyond: 503")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--max-seconds", o->api.service.answer_seconds, "most time for a response; 0: any")
      ->check(number_in(0.0, 1e6))
      ->capture_default_str();
  add_engine_options(*command, *o);
  add_table_option(*command, o->load);
  add_kv_option(*command, o->load);
  command->add_option("--trace", o->trace, "write a timeline for chrome://tracing or Perfetto");
  command->add_option("--patch", o->patches, "patch to put in force (NAME.stempatch); may be repeated")
      ->allow_extra_args(false);
  command->callback([o] { run_serve(*o); });
}

}  // namespace stem
