#include <algorithm>
#include <utility>

#include "core/error.h"
#include "io/file.h"
#include "text/merge_rules.h"
#include "text/tokenizer.h"
#include "text/tokenizer_data.h"
#include "text/utf8.h"

namespace stem {
namespace {

constexpr std::uint64_t kMaxFileBytes = 64 << 20;

// Appends without looking for an equal key, which an ordered object does by a linear search.
void append(Json& object, std::string key, Json value) {
  auto& entries = object.get_ref<Json::object_t&>();
  static_cast<Json::object_t::Container&>(entries).emplace_back(std::move(key), std::move(value));
}

void check_type(const Json& model, bool byte_level, const std::string& name) {
  // Files written before the field existed leave it out.
  const std::string type = get_string_or(model, "type", name, "BPE");
  if (type != "BPE") fail(ErrorCode::kFormat, "{}: type: expected \"BPE\", found {}", name, shown(type));
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string affix = get_string_or(model, field, name, "");
    if (!affix.empty()) {
      fail(ErrorCode::kFormat, "{}: {}: unsupported: expected null or \"\", found {}", name, field,
           shown(affix));
    }
  }
  if (get_number_or(model, "dropout", name, 0, 1, 0) != 0) {
    fail(ErrorCode::kFormat, "{}: dropout: unsupported: expected null or 0", name);
  }
  if (byte_level && get_bool_or(model, "byte_fallback", name, false)) {
    fail(ErrorCode::kFormat, "{}: byte_fallback: unsupported: expected false with ByteLevel, found true",
         name);
  }
}

// In byte-level BPE an unknown token never applies if every byte of well-formed UTF-8 has a token; else it
// would lose text.
void check_unknown_token(const Json& model, const Bpe& bpe, const std::string& name) {
  if (bpe.vocabulary().spelling() == Spelling::kText) return;
  if (find_field(model, "unk_token", name) == nullptr) return;
  const std::string unknown = get_string(model, "unk_token", name);
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool occurs = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
    if (occurs && !bpe.has_byte(static_cast<unsigned char>(byte))) {
      fail(ErrorCode::kFormat,
           "{}: unk_token: unsupported: {} would stand for byte 0x{:02X}, which has no token", name,
           shown(unknown), byte);
    }
  }
}

BpeSettings read_settings(const Json& model, const Vocabulary& vocabulary, const std::string& name) {
  BpeSettings settings;
  settings.ignore_merges = get_bool_or(model, "ignore_merges", name, false);
  if (vocabulary.spelling() == Spelling::kByteAlphabet) return settings;
  settings.byte_fallback = get_bool_or(model, "byte_fallback", name, false);
  settings.fuse_unknown = get_bool_or(model, "fuse_unk", name, false);
  if (find_field(model, "unk_token", name) != nullptr) {
    const std::string unknown = get_string(model, "unk_token", name);
    settings.unknown = vocabulary.find_written(unknown);
    if (!settings.unknown) {
      fail(ErrorCode::kFormat, "{}: unk_token: {} is not in the vocabulary", name, shown(unknown));
    }
  }
  return settings;
}

Vocabulary read_vocabulary(const Json& json, Spelling spelling, const std::string& name) {
  if (!json.is_object()) fail(ErrorCode::kFormat, "{}: expected an object, found {}", name, shown(json));
  Vocabulary vocabulary(spelling);
  vocabulary.reserve(json.size());
  for (const auto& [written, id] : json.items()) {
    if (!id.is_number_integer() ||
        (id.is_number_unsigned() && id.get<std::uint64_t>() > Vocabulary::kMaxId)) {
      fail(ErrorCode::kFormat, "{}: token {}: expected an id in [0, {}], found {}", name, shown(written),
           Vocabulary::kMaxId, shown(id));
    }
    vocabulary.add(written, id.get<std::int64_t>(), name);
  }
  if (vocabulary.count() == 0) fail(ErrorCode::kFormat, "{}: the vocabulary is empty", name);
  return vocabulary;
}

std::vector<MergeRule> read_merges(const Json& json, const Vocabulary& vocabulary, const std::string& name) {
  std::vector<MergeRule> merges;
  merges.reserve(json.size());
  for (const Json& rule : json) {
    if (rule.is_string()) {
      merges.push_back(parse_merge(vocabulary, rule.get_ref<const std::string&>(), merges.size(), name));
    } else if (rule.is_array() && rule.size() == 2 && rule[0].is_string() && rule[1].is_string()) {
      merges.push_back(make_merge(vocabulary, rule[0].get_ref<const std::string&>(),
                                  rule[1].get_ref<const std::string&>(), merges.size(), name));
    } else {
      fail(ErrorCode::kFormat, "{}: merge {}: expected \"a b\" or [\"a\", \"b\"], found {}", name,
           merges.size(), shown(rule));
    }
  }
  return merges;
}

// bos_token and eos_token are strings or objects with the string in `content`.
std::optional<std::string> read_token_name(const Json& config, const char* key, std::string_view name) {
  const Json* field = find_field(config, key, name);
  if (field == nullptr) return std::nullopt;
  return field->is_object() ? get_string(*field, "content", within(name, key))
                            : get_string(config, key, name);
}

// A string, or a list of named templates of which "default" counts.
std::optional<std::string> read_chat_template(const Json& config, std::string_view name) {
  const Json* field = find_field(config, "chat_template", name);
  if (field == nullptr) return std::nullopt;
  if (!field->is_array()) return get_string(config, "chat_template", name);
  const std::string inside = within(name, "chat_template");
  for (const Json& entry : *field) {
    if (get_string(entry, "name", inside) == "default") return get_string(entry, "template", inside);
  }
  return std::nullopt;
}

}  // namespace

Tokenizer Tokenizer::from_model(Json frame, Vocabulary vocabulary, std::vector<MergeRule> merges,
                                std::string_view name) {
  const std::string file(name);
  Json& settings = frame["model"];
  if (settings.is_null()) {
    settings = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", nullptr},
                {"end_of_word_suffix", nullptr},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false}};
  }
  const std::string model_name = within(name, "model");
  const BpeSettings bpe_settings = read_settings(settings, vocabulary, model_name);
  Bpe model(std::move(vocabulary), std::move(merges), bpe_settings);
  check_unknown_token(settings, model, model_name);
  Tokenizer tokenizer;
  tokenizer.data_ = std::make_shared<const Data>(std::move(frame), std::move(model), file);
  tokenizer.caches_ = std::make_shared<CachePool>();
  return tokenizer;
}

Tokenizer Tokenizer::from_json(std::string_view text, std::string_view name) {
  Json json = parse_json(text, name);
  if (!json.is_object()) fail(ErrorCode::kFormat, "{}: expected an object, found {}", name, shown(json));
  const Json& model = get_object(json, "model", name);
  const std::string model_name = within(name, "model");
  const bool byte_level = PreTokenizer(pre_tokenizer_of(json), within(name, "pre_tokenizer")).byte_level();
  check_type(model, byte_level, model_name);
  Vocabulary vocabulary =
      read_vocabulary(get_object(model, "vocab", model_name),
                      byte_level ? Spelling::kByteAlphabet : Spelling::kText, within(model_name, "vocab"));
  std::vector<MergeRule> merges = read_merges(get_array(model, "merges", model_name, kMaxMerges), vocabulary,
                                              within(model_name, "merges"));
  json["model"].erase("vocab");
  json["model"].erase("merges");
  return from_model(std::move(json), std::move(vocabulary), std::move(merges), name);
}

Tokenizer Tokenizer::from_gpt2(std::string_view encoder_json, std::string_view vocab_bpe,
                               std::string_view name) {
  const std::string file(name);
  Vocabulary vocabulary = read_vocabulary(parse_json(encoder_json, name), Spelling::kByteAlphabet, file);
  check_utf8(vocab_bpe, name);
  std::vector<MergeRule> merges;
  for (bool first = true; !vocab_bpe.empty(); first = false) {
    const std::size_t length = std::min(vocab_bpe.find('\n'), vocab_bpe.size());
    std::string_view line = vocab_bpe.substr(0, length);
    vocab_bpe.remove_prefix(std::min(length + 1, vocab_bpe.size()));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || (first && line.starts_with("#version"))) continue;
    merges.push_back(parse_merge(vocabulary, line, merges.size(), file));
  }
  Json frame = {{"version", "1.0"},          {"truncation", nullptr},
                {"padding", nullptr},        {"added_tokens", Json::array()},
                {"normalizer", nullptr},     {"pre_tokenizer", PreTokenizer::describe("")},
                {"post_processor", nullptr}, {"decoder", PreTokenizer::describe("")}};
  if (const auto id = vocabulary.find_written("<|endoftext|>")) {
    frame["added_tokens"].push_back({{"id", *id},
                                     {"content", "<|endoftext|>"},
                                     {"single_word", false},
                                     {"lstrip", false},
                                     {"rstrip", false},
                                     {"normalized", false},
                                     {"special", true}});
  }
  return from_model(std::move(frame), std::move(vocabulary), std::move(merges), name);
}

std::string Tokenizer::to_json() const {
  Json json = data_->frame;
  const Vocabulary& vocabulary = data_->model.vocabulary();
  Json vocab = Json::object(), merges = Json::array();
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.contains(id)) append(vocab, vocabulary.written(id), id);
  }
  for (const MergeRule& rule : data_->model.merges()) {
    merges.push_back(Json::array({vocabulary.written(rule.left), vocabulary.written(rule.right)}));
  }
  json["model"]["vocab"] = std::move(vocab);
  json["model"]["merges"] = std::move(merges);
  return dump_json(json);
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  std::error_code ignored;
  const bool directory = std::filesystem::is_directory(path, ignored);
  const std::filesystem::path file = directory ? path / "tokenizer.json" : path;
  Tokenizer tokenizer = from_json(read_file(file, kMaxFileBytes), file.string());
  const std::filesystem::path config = file.parent_path() / "tokenizer_config.json";
  if (std::filesystem::exists(config, ignored)) {
    tokenizer = tokenizer.with_config(read_file(config, kMaxFileBytes), config.string());
  }
  const std::filesystem::path chat = file.parent_path() / "chat_template.jinja";
  if (std::filesystem::exists(chat, ignored)) {
    std::string source = read_file(chat, std::uint64_t{1} << 20);
    check_utf8(source, chat.string());
    tokenizer = tokenizer.with_chat_template(std::move(source));
  }
  return tokenizer;
}

void Tokenizer::save(const std::filesystem::path& directory) const {
  write_file_atomic(directory / "tokenizer.json", to_json());
  Json config = Json::object();
  if (config_.bos) config["bos_token"] = *config_.bos;
  if (config_.eos) config["eos_token"] = *config_.eos;
  if (config_.chat_template) config["chat_template"] = *config_.chat_template;
  if (config.empty()) return;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  write_file_atomic(directory / "tokenizer_config.json", dump_json(config));
}

Tokenizer Tokenizer::with_config(std::string_view text, std::string_view name) const {
  const Json json = parse_json(text, name);
  Tokenizer copy = *this;
  if (auto found = read_chat_template(json, name)) copy.config_.chat_template = std::move(found);
  if (auto found = read_token_name(json, "bos_token", name)) copy.config_.bos = std::move(found);
  if (auto found = read_token_name(json, "eos_token", name)) copy.config_.eos = std::move(found);
  for (const auto& [key, token] :
       {std::pair("bos_token", copy.config_.bos), {"eos_token", copy.config_.eos}}) {
    if (token && !copy.token_id(*token)) {
      fail(ErrorCode::kMismatch, "{}: {}: the tokenizer has no token {}", name, key, shown(*token));
    }
  }
  return copy;
}

Tokenizer Tokenizer::with_start(std::int32_t id) const {
  if (!prefix_ids().empty()) return *this;
  Json frame = data_->frame;
  Json& post = frame["post_processor"];
  Json start = start_template(id, token_bytes(id));
  // A ByteLevel says where words begin, which the template knows nothing of.
  post = post.is_null() ? std::move(start)
                        : Json{{"type", "Sequence"}, {"processors", Json::array({post, std::move(start)})}};
  Tokenizer copy = *this;
  copy.data_ = std::make_shared<const Data>(std::move(frame), data_->model, "post_processor");
  return copy;
}

bool Tokenizer::same_ids(const Tokenizer& other) const {
  const auto ids_of = [](const Tokenizer& tokenizer) {
    Json json = parse_json(tokenizer.to_json(), "tokenizer");
    json.erase("post_processor");
    return json;
  };
  return ids_of(*this) == ids_of(other);
}

Tokenizer Tokenizer::with_chat_template(std::string chat_template) const {
  Tokenizer copy = *this;
  copy.config_.chat_template = std::move(chat_template);
  return copy;
}

}  // namespace stem
