// stem generate, stem chat: text out of a model, patches in force if wanted.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "apps/commands.h"
#include "apps/kv_option.h"
#include "apps/patched_model.h"
#include "apps/sampling_option.h"
#include "apps/table_option.h"
#include "core/error.h"
#include "generate/chat_prompt.h"
#include "text/utf8.h"

namespace stem {
namespace {

struct Options {
  std::string model, prompt, system;
  std::vector<std::string> patches;
  GenerateOptions sample;
  LoadOptions load{.serving = true};
  bool json = false, chat = false, plain = false;
};

void add_common_options(CLI::App& command, Options& o) {
  command.add_option("model", o.model, "model directory")->required();
  command.add_option("--max-tokens", o.sample.max_tokens, "most tokens to make")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  add_sampling_options(command, o.sample);
  command.add_option("--patch", o.patches, "patch to put in force (NAME.stempatch); may be repeated")
      ->allow_extra_args(false);
  add_table_option(command, o.load);
  add_kv_option(command, o.load);
}

void write_out(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0) fail(ErrorCode::kIo, "standard output: could not be written");
}

// The continuation of `tokens` in `session`, written as it is made.
std::vector<std::int32_t> stream(Session& session, const LoadedModel& loaded,
                                 std::span<const std::int32_t> tokens, GenerateOptions sample, bool silent,
                                 bool continues = true) {
  if (const auto end = loaded.tokenizer.eos_id()) sample.stop_tokens = {*end};
  StreamDecoder decoder(loaded.tokenizer, false, continues);
  const auto made = generate(session, tokens, sample, [&](std::int32_t token) {
    if (!silent) write_out(decoder.push(token));
    return true;
  });
  if (!silent) write_out(decoder.finish());
  return made;
}

std::vector<ChatTurn> turns_of(const std::string& system, const std::string& user) {
  std::vector<ChatTurn> turns;
  if (!system.empty()) turns.push_back({"system", system});
  turns.push_back({"user", user});
  return turns;
}

// With room for one token of an answer.
std::vector<std::int32_t> chat_tokens(const ChatPrompt& chat, const LoadedModel& loaded,
                                      const std::vector<ChatTurn>& turns) {
  for (const ChatTurn& turn : turns) check_utf8(turn.content, "a message");
  const std::vector<std::int32_t> ids = chat.encode(turns);
  const std::int64_t room = loaded.model.config.max_positions - 1;
  if (static_cast<std::int64_t>(ids.size()) > room)
    fail(ErrorCode::kUsage,
         "the conversation: expected at most {} tokens (max_position_embeddings), found {}", room,
         ids.size());
  return ids;
}

void run_generate(Options o) {
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, o.patches, o.load);
  const auto prompt =
      o.chat ? chat_tokens(ChatPrompt(opened.tokenizer()), opened.loaded, turns_of(o.system, o.prompt))
             : prompt_tokens(opened.loaded, o.prompt);
  Session session(runtime.inference(), opened.model(), &opened.overlay,
                  static_cast<std::int64_t>(prompt.size()) + o.sample.max_tokens);
  const auto made = stream(session, opened.loaded, prompt, o.sample, o.json, !o.chat);
  if (!o.json) return write_out("\n");
  const std::int32_t stop = opened.tokenizer().eos_id().value_or(-1);
  const bool ended = static_cast<std::int64_t>(made.size()) < o.sample.max_tokens;
  Json patches = Json::array();
  for (const PatchFile& p : opened.patches) patches.push_back(p.id);
  write_out(dump_json({{"prompt", o.prompt},
                       {"prompt_ids", prompt},
                       {"completion", opened.tokenizer().decode(made, false, !o.chat)},
                       {"completion_ids", made},
                       {"stopped_by", ended ? "end of text or full context" : "max-tokens"},
                       {"end_of_text_id", stop},
                       {"seed", o.sample.seed},
                       {"temperature", o.sample.temperature},
                       {"patches", patches}}));
}

// Whether a typed line is text; if not, says why: a slip of the keyboard does not end a conversation.
bool is_text(const std::string& line) {
  try {
    check_utf8(line, "this line is left out");
    return true;
  } catch (const Error& e) {
    fmt::print(stderr, "stem: {}\n", e.what());
    return false;
  }
}

// Every line is a user's message; the model's template turns the conversation into a prompt. What the session
// has read already is not read again.
void converse(const Options& o, Runtime& runtime, const PatchedModel& opened) {
  fmt::print(stderr, "Write a message; /new starts afresh, an empty line or Ctrl-D ends.\n");
  const ChatPrompt chat(opened.tokenizer());
  Session session(runtime.inference(), opened.model(), &opened.overlay);
  std::vector<ChatTurn> turns;
  while (true) {
    fmt::print(stderr, "> ");
    std::string line;
    if (!std::getline(std::cin, line) || line.empty()) break;
    if (line == "/new") {
      turns.clear();
      continue;
    }
    if (!is_text(line)) continue;
    if (turns.empty())
      turns = turns_of(o.system, line);
    else
      turns.push_back({"user", line});
    const std::vector<std::int32_t> prompt = chat_tokens(chat, opened.loaded, turns);
    const auto answer = stream(session, opened.loaded, session.reuse(prompt), o.sample, false, false);
    write_out("\n");
    turns.push_back({"assistant", opened.tokenizer().decode(answer, true)});
  }
}

// The model's own text so far is its only memory: each line is appended and continued until the end-of-text
// token.
void run_chat(const Options& o) {
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, o.patches, o.load);
  if (opened.tokenizer().chat_template() && !o.plain) return converse(o, runtime, opened);
  if (!o.system.empty())
    fail(ErrorCode::kUsage, "--system: expected a model with a chat template, found {} without one", o.model);
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
    if (!is_text(line)) continue;
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
  add_common_options(*command, *o);
  command->add_option("-p,--prompt", o->prompt, "text to continue")->required();
  command->add_flag("--chat", o->chat, "the prompt is a user's message: apply the model's chat template");
  command->add_option("--system", o->system, "with --chat: the system's message")->needs("--chat");
  command->add_flag("--json", o->json, "prompt, completion and ids as JSON");
  command->callback([o] { run_generate(*o); });
}

void add_chat_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("chat", "converse on stdin, through the model's chat template if it has one");
  add_common_options(*command, *o);
  command->add_option("--system", o->system, "the system's message");
  command->add_flag("--plain", o->plain, "leave the template aside: continue each line as text");
  command->callback([o] { run_chat(*o); });
}

}  // namespace stem
