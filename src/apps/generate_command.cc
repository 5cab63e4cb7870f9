// stem generate, stem chat: text out of a model, patches in force if wanted.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "apps/commands.h"
#include "apps/patched_model.h"
#include "core/error.h"

namespace stem {
namespace {

struct Options {
  std::string model, prompt;
  std::vector<std::string> patches;
  SampleOptions sample;
  bool json = false;
};

void add_sampling(CLI::App& command, Options& o) {
  command.add_option("model", o.model, "model directory")->required();
  command.add_option("--max-tokens", o.sample.max_tokens, "most tokens to make")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command.add_option("--temperature", o.sample.temperature, "0: the likeliest token every time")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--seed", o.sample.seed, "seed of the draws")->capture_default_str();
  command.add_option("--patch", o.patches, "patch to put in force (NAME.stempatch); may be repeated")
      ->allow_extra_args(false);
}

void write_out(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0) fail(ErrorCode::kIo, "standard output: could not be written");
}

// The continuation of `tokens` in `session`, written as it is made.
std::vector<std::int32_t> stream(Session& session, const LoadedModel& loaded,
                                 const std::vector<std::int32_t>& tokens, SampleOptions sample, bool silent) {
  sample.stop_token = loaded.tokenizer.eos_id().value_or(-1);
  StreamDecoder decoder(loaded.tokenizer);
  const auto made = generate(session, tokens, sample, [&](std::int32_t token) {
    if (!silent) write_out(decoder.push(token));
    return true;
  });
  if (!silent) write_out(decoder.finish());
  return made;
}

void run_generate(Options o) {
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, o.patches);
  const auto prompt = prompt_tokens(opened.loaded, o.prompt);
  Session session(runtime.inference(), opened.model(), &opened.overlay);
  const auto made = stream(session, opened.loaded, prompt, o.sample, o.json);
  if (!o.json) return write_out("\n");
  const std::int32_t stop = opened.tokenizer().eos_id().value_or(-1);
  const bool ended = static_cast<std::int64_t>(made.size()) < o.sample.max_tokens;
  Json patches = Json::array();
  for (const PatchFile& p : opened.patches) patches.push_back(p.id);
  write_out(dump_json({{"prompt", o.prompt},
                       {"prompt_ids", prompt},
                       {"completion", opened.tokenizer().decode(made)},
                       {"completion_ids", made},
                       {"stopped_by", ended ? "end of text or full context" : "max-tokens"},
                       {"end_of_text_id", stop},
                       {"seed", o.sample.seed},
                       {"temperature", o.sample.temperature},
                       {"patches", patches}}));
}

// The model's own text so far is its only memory: each line is appended and continued until the end-of-text
// token.
void run_chat(const Options& o) {
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, o.patches);
  if (opened.tokenizer().chat_template()) {
    fmt::print(
        stderr,
        "stem chat: the tokenizer's chat template is not applied; lines are continued as plain text\n");
  }
  fmt::print(stderr,
             "Type the beginning of a text; the model continues it. /new starts afresh, an empty line or "
             "Ctrl-D ends.\n");
  auto session = std::make_unique<Session>(runtime.inference(), opened.model(), &opened.overlay);
  const std::int32_t stop = opened.tokenizer().eos_id().value_or(-1);
  bool fresh = true;
  while (true) {
    fmt::print(stderr, "> ");
    std::string line;
    if (!std::getline(std::cin, line) || line.empty()) break;
    if (line == "/new") {
      fresh = true;
      continue;
    }
    std::vector<std::int32_t> tokens = prompt_tokens(opened.loaded, line);
    const auto needed = static_cast<std::int64_t>(session->tokens().size() + tokens.size());
    if (fresh || needed + 1 >= session->capacity()) {
      if (!fresh) fmt::print(stderr, "(the context is full: starting afresh)\n");
      session = std::make_unique<Session>(runtime.inference(), opened.model(), &opened.overlay);
      fresh = false;
    } else if (stop >= 0 && session->tokens().back() != stop) {
      tokens =
          opened.tokenizer().encode(" " + line, false);  // cut short by --max-tokens: the same text goes on
    }
    stream(*session, opened.loaded, tokens, o.sample, false);
    write_out("\n");
  }
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("generate", "continue a prompt; the completion alone goes to stdout");
  add_sampling(*command, *o);
  command->add_option("-p,--prompt", o->prompt, "text to continue")->required();
  command->add_flag("--json", o->json, "prompt, completion and ids as JSON");
  command->callback([o] { run_generate(*o); });
}

void add_chat_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("chat", "continue lines typed on stdin, in one context");
  add_sampling(*command, *o);
  command->callback([o] { run_chat(*o); });
}

}  // namespace stem
