// stem write: a model writes texts, many at once, as data to calibrate, distill or train on.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <deque>
#include <memory>
#include <optional>

#include "apps/commands.h"
#include "apps/interrupt.h"
#include "apps/kv_option.h"
#include "apps/patched_model.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "apps/sampling_option.h"
#include "apps/table_option.h"
#include "data/json_lines.h"
#include "generate/continuation.h"
#include "generate/engine.h"
#include "io/file.h"
#include "io/lock.h"
#include "kernels/cpu/cpu.h"
#include "text/utf8.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

// A file of lines that is being written, in place when `keep` renames it. What is done of one that is not
// kept, because the disk is full or the process killed, stays beside it.
class PartialFile {
 public:
  explicit PartialFile(const fs::path& path)
      : path_(path), lock_(path.string() + ".partial", "stem write"), writer_(path.string() + ".partial") {}
  ~PartialFile() {
    std::error_code ignored;
    if (!kept_ && whole_ == 0) fs::remove(writer_.path(), ignored);
  }
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  void write_line(const std::string& line) {
    try {
      writer_.write(line + "\n");
      writer_.flush();
    } catch (const Error& e) {
      std::error_code ignored;
      fs::resize_file(writer_.path(), whole_, ignored);  // not half a line
      if (whole_ == 0) throw;
      fail(e.code(), "{}; the texts before it are in {}", e.what(), writer_.path().string());
    }
    whole_ = writer_.position();
  }
  void keep() {
    writer_.close();
    fs::rename(writer_.path(), path_);
    kept_ = true;
  }

 private:
  fs::path path_;
  PathLock lock_;
  FileWriter writer_;
  std::uint64_t whole_ = 0;  // bytes of whole lines
  bool kept_ = false;
};

// So many texts in a row that are none: the model has nothing to say to this beginning.
constexpr std::int64_t kMostUseless = 256;

// Readers of text take a NUL for a binary file.
bool is_useless(const std::string& text) {
  return is_blank_text(text) || text.find('\0') != std::string::npos;
}

struct Options {
  std::string model, out, prompt, start;
  std::vector<std::string> patches;
  std::int64_t tokens = 131072, length = 256, slots = 64;
  SamplingOptions sampling;
  LoadOptions load{.serving = true};
  bool replace = false;
};

struct Text {
  std::string text;
  std::int64_t tokens = 0;
  bool ended = false;  // by itself, not by its length
};

// Texts 0, 1, 2, … of one beginning. Text i draws from stream i of the seed, so that neither threads nor
// slots change what is written.
class Writer {
 public:
  Writer(Engine& engine, GenerationRequest like) : engine_(engine), like_(std::move(like)) {}

  // The next text; nothing if it has not ended within `timeout`. `wanted`: how many more are likely needed.
  std::optional<Text> next(std::int64_t wanted, std::chrono::milliseconds timeout) {
    // The first to begin need not be the first to end: slots would stand idle without others that wait.
    const std::int64_t most = std::min(wanted, engine_.options().slots + engine_.options().queue);
    while (std::ssize(under_way_) < std::max<std::int64_t>(most, 1)) {
      under_way_.push_back(engine_.submit(like_));
      ++like_.sampling.stream;
    }
    const auto event = under_way_.front()->next(timeout);
    if (!event) return std::nullopt;
    first_.text += event->text;
    first_.tokens += std::ssize(event->tokens);
    if (event->finish == FinishReason::none) return std::nullopt;
    if (event->finish == FinishReason::error) fail(event->code, "{}", event->error);
    first_.ended = event->finish == FinishReason::stop;
    if (first_.ended) --first_.tokens;  // the stop token
    under_way_.pop_front();
    return std::exchange(first_, {});
  }

 private:
  Engine& engine_;
  GenerationRequest like_;
  std::deque<std::shared_ptr<Generation>> under_way_;
  Text first_;  // what has come of the front one
};

// What texts begin with where nobody says: what this model puts before prompts, else what stands between the
// documents of most trainings.
std::optional<std::int32_t> usual_start(const Tokenizer& tokenizer) {
  for (const auto& id :
       {tokenizer.start_id(), tokenizer.token_id("<|endoftext|>"), tokenizer.bos_id(), tokenizer.eos_id()})
    if (id) return id;
  return std::nullopt;
}

GenerationRequest request_of(const Options& o, const PatchedModel& opened) {
  const Tokenizer& tokenizer = opened.tokenizer();
  check_utf8(o.prompt, "the prompt");
  std::optional<std::int32_t> start = o.start.empty() ? usual_start(tokenizer) : tokenizer.token_id(o.start);
  if (!o.start.empty() && !start)
    fail(ErrorCode::kUsage, "--start: expected a token of the vocabulary, as <|endoftext|>, found {}",
         in_quotes(o.start));
  GenerationRequest request;
  request.sampling = o.sampling;
  request.max_tokens = o.length;
  if (start) {
    request.prompt.push_back(*start);
    request.sampling.stop_tokens.push_back(*start);  // the next document
  }
  const auto prompt = tokenizer.encode(o.prompt, false);
  request.prompt.insert(request.prompt.end(), prompt.begin(), prompt.end());
  request.continues = !o.prompt.empty();
  if (const auto end = tokenizer.eos_id(); end && end != start) request.sampling.stop_tokens.push_back(*end);
  if (request.prompt.empty())
    fail(ErrorCode::kUsage, "{}: expected --prompt or --start, since the vocabulary has no start token",
         o.model);
  const std::int64_t room = opened.model().config.max_positions;
  if (std::ssize(request.prompt) + o.length > room)
    fail(ErrorCode::kUsage,
         "--length: expected at most {} tokens (max_position_embeddings, less {} of the beginning), found {}",
         room - std::ssize(request.prompt), request.prompt.size(), o.length);
  return request;
}

void check(const Options& o) {
  if (fs::path(o.out).extension() != ".jsonl")
    fail(ErrorCode::kUsage, "--out: expected a name that ends in .jsonl, found {}", o.out);
  if (fs::exists(o.out) && !fs::is_regular_file(o.out))
    fail(ErrorCode::kUsage, "{}: expected a file, found something else of this name", o.out);
  require_outside_models(o.out);
  if (fs::exists(o.out) && !o.replace)
    fail(ErrorCode::kUsage, "{}: expected a new file, found one: name another, or say --replace", o.out);
  if (o.sampling.temperature == 0.0)
    fail(ErrorCode::kUsage,
         "--temperature: expected more than 0, since all texts would be the same, found 0");
}

void run_write(const Options& o) {
  check(o);
  const InterruptGuard guard;
  Runtime runtime;
  const PatchedModel opened = open_model(runtime, o.model, o.patches, o.load);
  const GenerationRequest request = request_of(o, opened);
  EngineOptions options;
  options.context = std::ssize(request.prompt) + o.length;
  options.slots = std::min(o.slots, (o.tokens + o.length - 1) / o.length);
  options.queue = 3 * o.slots;
  options.on_thread_start = [] { set_cpu_threads(0); };

  PartialFile file(o.out);
  std::int64_t texts = 0, tokens = 0, ended = 0, useless = 0;
  {
    Engine engine(runtime.inference(), opened.model(), opened.tokenizer(), &opened.overlay, options);
    Writer writer(engine, request);
    Progress progress("writing", o.tokens);
    while (tokens < o.tokens && InterruptGuard::pending() == 0) {
      const std::int64_t usual = texts > 0 ? std::max<std::int64_t>(1, tokens / texts) : o.length;
      const auto text = writer.next((o.tokens - tokens + usual - 1) / usual, std::chrono::milliseconds(200));
      if (!text) continue;
      if (is_useless(text->text)) {
        if (++useless == kMostUseless)
          fail(ErrorCode::kUsage, "{}: expected texts, found {} empty ones in a row: name another --start",
               o.model, useless);
        continue;
      }
      useless = 0;
      file.write_line(Json{{"text", o.prompt + text->text}}.dump());
      ++texts;
      tokens += text->tokens;
      ended += text->ended ? 1 : 0;
      progress.update(std::min(tokens, o.tokens), count_text(texts) + (texts == 1 ? " text" : " texts"));
    }
  }
  if (texts == 0)
    throw Interrupted{InterruptGuard::pending(),
                      fmt::format("stopped by signal {}; no text was done, {} was not written",
                                  InterruptGuard::pending(), o.out)};
  file.keep();
  const std::string made = fmt::format("{}: {} texts, {} tokens; {} came to an end before {} tokens", o.out,
                                       count_text(texts), count_text(tokens), count_text(ended), o.length);
  if (tokens < o.tokens)
    throw Interrupted{InterruptGuard::pending(),
                      fmt::format("stopped by signal {}; {}", InterruptGuard::pending(), made)};
  fmt::print("{}\n", made);
}

}  // namespace

void add_write_command(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("write", "let a model write texts: data to calibrate or train on");
  command->footer(
      "One object a line, {\"text\": …}. The same seed gives the same file, whatever the threads and slots. "
      "Stopped\nby Ctrl-C, the file holds the texts that are done; by a full disk or a kill, "
      "NAME.jsonl.partial does.\n");
  command->add_option("model", o->model, "model directory")->required();
  command->add_option("-o,--out", o->out, "file to write (NAME.jsonl)")->required();
  command->add_option("--tokens", o->tokens, "tokens to write in all; the last text is written to its end")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--length", o->length, "most tokens of a text")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("-p,--prompt", o->prompt, "what every text begins with, part of it");
  command->add_option(
      "--start", o->start,
      "token that stands before every text, not part of it; if absent what the model's prompts "
      "begin with, else <|endoftext|>");
  o->sampling.temperature = 1.0;  // texts as varied as the model's own distribution
  add_sampling_options(*command, o->sampling);
  command->add_option("--slots", o->slots, "texts being written at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--patch", o->patches, "patch to put in force (NAME.stempatch); may be repeated")
      ->allow_extra_args(false);
  add_table_option(*command, o->load);
  add_kv_option(*command, o->load);
  command->add_flag("--replace", o->replace, "in place of a file of this name");
  command->callback([o] { run_write(*o); });
}

}  // namespace stem
