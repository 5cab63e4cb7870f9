// stem data: text in, a data directory out (tokenizer.json, train.tokens, held_out.tokens).
#include "apps/data_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "apps/commands.h"
#include "apps/model_directory.h"
#include "apps/option_checks.h"
#include "apps/progress.h"
#include "apps/run_files.h"
#include "core/rng.h"
#include "data/chat.h"
#include "data/text_source.h"
#include "io/digest.h"
#include "io/file.h"
#include "text/bpe_trainer.h"

namespace stem {
namespace {

constexpr const char* kDocumentsFile = "documents.jsonl";

void write_documents(const std::filesystem::path& path, const std::vector<std::string>& documents) {
  FileWriter writer(path);
  for (const std::string& text : documents) writer.write(Json{{"text", text}}.dump() + "\n");
  writer.close();
}

DataSummary write_tokens(const std::filesystem::path& out, const Tokenizer& tokenizer,
                         const std::vector<std::string>& train, const std::vector<std::string>& held_out) {
  std::filesystem::create_directories(out);
  tokenizer.save(out);
  const std::string digest = to_hex(sha256_file(out / kTokenizerFile));
  const TokenShard shard = tokenize(tokenizer, train, digest),
                   validation = tokenize(tokenizer, held_out, digest);
  save_shard(out / kTrainTokens, shard);
  save_shard(out / kHeldOutTokens, validation);
  return {tokenizer.vocab_size(), shard.document_count(), shard.size(), validation.document_count(),
          validation.size()};
}

Tokenizer train_tokenizer(const std::vector<std::string>& documents, std::int64_t vocab) {
  std::vector<std::string_view> views(documents.begin(), documents.end());
  BpeTrainerOptions options;
  options.vocab_size = static_cast<std::int32_t>(vocab);
  return train_bpe(views, options);
}

struct TextCommandOptions {
  std::vector<std::string> inputs;
  std::string out, tokenizer, field = "text";
  std::int64_t vocab = 8192;
  double held_out = 0.02;
  std::uint64_t seed = 1;
  bool json = false;
};

void print(const DataSummary& s, const std::string& out, bool json) {
  if (json) {
    fmt::print("{}", dump_json({{"directory", out},
                                {"vocab_size", s.vocab},
                                {"train_documents", s.train_documents},
                                {"train_tokens", s.train_tokens},
                                {"held_out_documents", s.held_out_documents},
                                {"held_out_tokens", s.held_out_tokens}}));
    return;
  }
  fmt::print("{}: vocabulary of {} tokens; {} documents with {} tokens to train on, {} with {} held out\n",
             out, count_text(s.vocab), count_text(s.train_documents), count_text(s.train_tokens),
             count_text(s.held_out_documents), count_text(s.held_out_tokens));
}

void run_text(const TextCommandOptions& o) {
  require_no_model(o.out);
  std::vector<std::string> documents;
  TextOptions options;
  options.jsonl_field = o.field;
  for (const std::string& input : o.inputs) {
    std::vector<std::string> more = read_documents(input, options);
    documents.insert(documents.end(), std::make_move_iterator(more.begin()),
                     std::make_move_iterator(more.end()));
  }
  std::vector<std::string> train, held_out;
  if (documents.size() == 1) {  // one long text: its end is held out, cut at a line or word if there is one
    std::string& text = documents.front();
    std::size_t cut = text.size() - static_cast<std::size_t>(static_cast<double>(text.size()) * o.held_out);
    const std::size_t gap = text.find_last_of(" \n", cut);
    if (gap != std::string::npos && gap > 0) cut = gap;  // scripts without spaces are cut at a character
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0u) == 0x80u) --cut;
    if (cut == 0 || cut == text.size())
      fail(ErrorCode::kFormat, "{}: expected a text long enough to hold some of it out, found {} bytes",
           o.inputs.front(), text.size());
    held_out.push_back(text.substr(cut));
    train.push_back(text.substr(0, cut));
  } else {
    Rng rng(o.seed, 0);
    shuffle(documents, rng);
    const auto count = std::max<std::size_t>(
        1, static_cast<std::size_t>(static_cast<double>(documents.size()) * o.held_out));
    held_out.assign(documents.begin(), documents.begin() + static_cast<std::ptrdiff_t>(count));
    train.assign(documents.begin() + static_cast<std::ptrdiff_t>(count), documents.end());
  }
  const Tokenizer tokenizer =
      o.tokenizer.empty() ? train_tokenizer(train, o.vocab) : Tokenizer::load(o.tokenizer);
  print(write_tokens(o.out, tokenizer, train, held_out), o.out, o.json);
}

struct ChatCommandOptions {
  std::vector<std::string> inputs;
  std::string out, tokenizer, model;
  double held_out = 0.02;
  std::uint64_t seed = 1;
  bool json = false;
};

// The end of a plain conversation is the end-of-text token that follows it; <|im_end|> says it already.
TokenShard chat_shard(const Tokenizer& tokenizer, std::int32_t start, ChatForm form,
                      std::span<const Conversation> conversations, const std::string& digest) {
  TokenShard shard;
  shard.tokenizer_digest = digest;
  for (const Conversation& c : conversations) {
    const RenderedChat chat = render_chat(tokenizer, form, c);
    shard.append(start, chat.tokens, chat.is_target, form == ChatForm::plain);
  }
  return shard;
}

std::int64_t target_count(const TokenShard& shard) {
  return std::count(shard.loss_mask.begin(), shard.loss_mask.end(), std::uint8_t{1});
}

void run_chat_data(const ChatCommandOptions& o) {
  if (o.tokenizer.empty() == o.model.empty())
    fail(ErrorCode::kUsage, "data chat: expected --tokenizer FILE or --model DIR, found {}",
         o.model.empty() ? "neither" : "both");
  require_no_model(o.out);
  std::vector<Conversation> all;
  for (const std::string& input : o.inputs) {
    std::vector<Conversation> more = parse_conversations(read_file(input), input);
    all.insert(all.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  if (all.size() < 2)
    fail(ErrorCode::kFormat, "{}: expected at least two conversations, one of them to hold out, found one",
         o.inputs.front());
  // The tokenizer's own bytes: shards and the model that is tuned on them name the same digest.
  std::filesystem::path path = o.tokenizer.empty() ? o.model : o.tokenizer;
  if (std::filesystem::is_directory(path)) path /= kTokenizerFile;
  const std::string bytes = read_file(path), digest = to_hex(sha256(bytes));
  const Tokenizer tokenizer = Tokenizer::load(path);
  const auto start = tokenizer.prefix_ids().empty() ? tokenizer.eos_id() : tokenizer.prefix_ids().front();
  if (!start)
    fail(ErrorCode::kMismatch, "{}: expected an end-of-text token such as <|endoftext|>, found none",
         path.string());

  Rng rng(o.seed, 0);
  shuffle(all, rng);
  const auto count =
      std::max<std::size_t>(1, static_cast<std::size_t>(static_cast<double>(all.size()) * o.held_out));
  const ChatForm form = chat_form_of(tokenizer);
  const std::span<const Conversation> whole(all);
  const TokenShard held_out = chat_shard(tokenizer, *start, form, whole.first(count), digest),
                   train = chat_shard(tokenizer, *start, form, whole.subspan(count), digest);
  const std::filesystem::path out = o.out;
  std::filesystem::create_directories(out);
  write_file_atomic(out / kTokenizerFile, bytes);
  copy_tokenizer_config(path.parent_path(), out);
  save_shard(out / kTrainTokens, train);
  save_shard(out / kHeldOutTokens, held_out);
  if (o.json) {
    fmt::print("{}", dump_json({{"directory", o.out},
                                {"template", name_of(form)},
                                {"vocab_size", tokenizer.vocab_size()},
                                {"train_conversations", train.document_count()},
                                {"train_tokens", train.size()},
                                {"train_targets", target_count(train)},
                                {"held_out_conversations", held_out.document_count()},
                                {"held_out_tokens", held_out.size()},
                                {"held_out_targets", target_count(held_out)}}));
    return;
  }
  fmt::print("{}: template {}; {} conversations with {} tokens, {} of them targets; {} with {} held out\n",
             o.out, name_of(form), count_text(train.document_count()), count_text(train.size()),
             count_text(target_count(train)), count_text(held_out.document_count()),
             count_text(held_out.size()));
}

struct AtlasCommandOptions {
  std::string out, source, config;
  std::vector<std::string> assignments;
  bool json = false;
};

void run_atlas_data(const AtlasCommandOptions& o) {
  Settings settings;
  if (!o.config.empty()) settings.load_toml(o.config);
  for (const std::string& assignment : o.assignments) settings.set(assignment);
  require_no_model(o.out);
  print(write_atlas_data(o.out, find_share("data/atlas", o.source), settings), o.out, o.json);
}

}  // namespace

DataSummary write_atlas_data(const std::filesystem::path& out, const std::filesystem::path& source,
                             const Settings& settings) {
  const AtlasCorpus corpus = make_atlas_corpus(source, settings.atlas);
  const Tokenizer tokenizer = train_tokenizer(corpus.documents, settings.tokenizer_vocab);
  const DataSummary summary = write_tokens(out, tokenizer, corpus.documents, corpus.held_out);
  write_documents(out / kDocumentsFile, corpus.documents);
  write_file_atomic(out / kFactsFile, write_fact_suite(corpus.facts));
  return summary;
}

std::filesystem::path find_share(const std::string& name, const std::string& given) {
  if (!given.empty()) return given;
  std::vector<std::filesystem::path> places{name};
  std::error_code error;
  const auto binary = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  if (!error) {
    places.push_back(binary.parent_path() / name);                     // build/stem in a checkout
    places.push_back(binary.parent_path() / "share" / "stem" / name);  // installed
  }
  for (const auto& place : places) {
    if (std::filesystem::exists(place)) return place;
  }
  fail(ErrorCode::kNotFound, "{}: expected in the current directory or beside the program, found in neither",
       name);
}

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "make a data directory: tokenizer and token shards");
  data->require_subcommand(1);

  auto a = std::make_shared<AtlasCommandOptions>();
  CLI::App* atlas = data->add_subcommand(
      "atlas", "the project's own corpus of countries, landmarks, planets, substances …");
  atlas->add_option("-o,--out", a->out, "data directory to write")->required();
  atlas->add_option("--source", a->source, "folder with tables and templates (default: data/atlas)");
  atlas->add_option("--config", a->config, "TOML settings");
  atlas->add_option("--set", a->assignments, "a setting, key=value; may be repeated")
      ->allow_extra_args(false);
  atlas->add_flag("--json", a->json, "figures as JSON");
  atlas->callback([a] { run_atlas_data(*a); });

  auto t = std::make_shared<TextCommandOptions>();
  CLI::App* text = data->add_subcommand("text", "plain text, JSONL or folders of them");
  text->add_option("input", t->inputs, "files or folders")->required();
  text->add_option("-o,--out", t->out, "data directory to write")->required();
  text->add_option("--vocab", t->vocab, "tokens of the tokenizer trained on the text")
      ->check(CLI::Range(257, 1 << 24))
      ->capture_default_str();
  text->add_option("--tokenizer", t->tokenizer,
                   "use this tokenizer.json (or model directory) instead of training one");
  text->add_option("--field", t->field, "member of a JSONL line that holds the text")->capture_default_str();
  text->add_option("--held-out", t->held_out, "share of the documents kept for validation")
      ->check(number_in(0.0001, 0.9))
      ->capture_default_str();
  text->add_option("--seed", t->seed, "seed of the split")->check(is_seed())->capture_default_str();
  text->add_flag("--json", t->json, "figures as JSON");
  text->callback([t] { run_text(*t); });

  auto c = std::make_shared<ChatCommandOptions>();
  CLI::App* chat =
      data->add_subcommand("chat", "conversations (JSONL): only the assistant's words are learnt");
  chat->add_option("input", c->inputs, "files of {\"messages\": …} or {\"prompt\", \"completion\"} lines")
      ->required();
  chat->add_option("-o,--out", c->out, "data directory to write")->required();
  chat->add_option("--tokenizer", c->tokenizer, "tokenizer.json");
  chat->add_option("--model", c->model, "model directory whose tokenizer to use");
  chat->add_option("--held-out", c->held_out, "share of the conversations kept for validation")
      ->check(number_in(0.0001, 0.9))
      ->capture_default_str();
  chat->add_option("--seed", c->seed, "seed of the split")->check(is_seed())->capture_default_str();
  chat->add_flag("--json", c->json, "figures as JSON");
  chat->callback([c] { run_chat_data(*c); });
}

}  // namespace stem
