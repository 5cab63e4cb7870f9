#include <algorithm>
#include <utility>

#include "core/error.h"
#include "io/file.h"
#include "text/merge_rules.h"
#include "text/normalize.h"
#include "text/tokenizer.h"
#include "text/tokenizer_data.h"
#include "text/utf8.h"

namespace stem {
namespace {

constexpr std::uint64_t kMaxFileBytes = 64 << 20;
constexpr std::size_t kMaxAddedTokens = 100'000;
constexpr int kMaxDepth = 8;  // of Sequences within Sequences

// `name: field` for errors about what is inside a field.
std::string within(std::string_view name, std::string_view field) {
  return fmt::format("{}: {}", name, field);
}

// Appends without looking for an equal key, which an ordered object does by a linear search.
void append(Json& object, std::string key, Json value) {
  auto& entries = object.get_ref<Json::object_t&>();
  static_cast<Json::object_t::Container&>(entries).emplace_back(std::move(key), std::move(value));
}

void check_type(const Json& model, const std::string& name) {
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
  if (get_bool_or(model, "byte_fallback", name, false)) {
    fail(ErrorCode::kFormat, "{}: byte_fallback: unsupported: expected false, found true", name);
  }
}

// An unknown token never applies if every byte of well-formed UTF-8 has a token; else it would lose text.
void check_unknown_token(const Json& model, const Bpe& bpe, const std::string& name) {
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

Vocabulary read_vocabulary(const Json& json, const std::string& name) {
  if (!json.is_object()) fail(ErrorCode::kFormat, "{}: expected an object, found {}", name, shown(json));
  Vocabulary vocabulary;
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

bool read_normalizer(const Json* json, const std::string& name, int depth = 0) {
  if (json == nullptr) return false;
  const std::string type = get_string(*json, "type", name);
  if (type == "NFC") return true;
  if (type != "Sequence" || depth >= kMaxDepth) {
    fail(ErrorCode::kFormat, "{}: type: expected NFC or a Sequence of NFC, found {}", name, shown(type));
  }
  bool nfc = false;
  for (const Json& step : get_array(*json, "normalizers", name))
    nfc |= read_normalizer(&step, name, depth + 1);
  return nfc;
}

void check_decoder(const Json* json, const std::string& name, int depth = 0) {
  if (json == nullptr) return;
  const std::string type = get_string(*json, "type", name);
  if (type == "ByteLevel") return;
  if (type != "Sequence" || depth >= kMaxDepth) {
    fail(ErrorCode::kFormat, "{}: type: expected ByteLevel, found {}", name, shown(type));
  }
  for (const Json& step : get_array(*json, "decoders", name)) check_decoder(&step, name, depth + 1);
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

Tokenizer::Data::Data(Json frame_, Bpe model_, const std::string& name)
    : frame(std::move(frame_)),
      model(std::move(model_)),
      pre_tokenizer(frame.contains("pre_tokenizer") ? frame["pre_tokenizer"] : Json(),
                    within(name, "pre_tokenizer")) {
  nfc = read_normalizer(find_field(frame, "normalizer", name), within(name, "normalizer"));
  check_decoder(find_field(frame, "decoder", name), within(name, "decoder"));
  add_tokens(name);
  read_post_processor(find_field(frame, "post_processor", name), within(name, "post_processor"), 0);
}

void Tokenizer::Data::add_tokens(const std::string& file) {
  if (find_field(frame, "added_tokens", file) == nullptr) return;
  const std::string name = within(file, "added_tokens");
  for (const Json& json : get_array(frame, "added_tokens", file, kMaxAddedTokens)) {
    AddedToken token;
    token.id = static_cast<std::int32_t>(get_int(json, "id", name, 0, Vocabulary::kMaxId));
    token.content = get_string(json, "content", name, AddedTokenFinder::kMaxContentBytes);
    token.special = get_bool_or(json, "special", name, false);
    token.single_word = get_bool_or(json, "single_word", name, false);
    token.lstrip = get_bool_or(json, "lstrip", name, false);
    token.rstrip = get_bool_or(json, "rstrip", name, false);
    token.normalized = get_bool_or(json, "normalized", name, !token.special);
    if (token.content.empty()) fail(ErrorCode::kFormat, "{}: id {}: the content is empty", name, token.id);
    const Vocabulary& vocabulary = model.vocabulary();
    const std::optional<std::int32_t> known = vocabulary.find_written(token.content);
    if (known && *known != token.id) {
      fail(ErrorCode::kFormat, "{}: {} has id {}, but {} in the vocabulary", name, shown(token.content),
           token.id, *known);
    }
    if (!known && vocabulary.contains(token.id)) {
      fail(ErrorCode::kFormat, "{}: id {} is given to {}, but to {} in the vocabulary", name, token.id,
           shown(token.content), shown(vocabulary.written(token.id)));
    }
    if (!by_id.emplace(token.id, added.size()).second) {
      fail(ErrorCode::kFormat, "{}: id {} occurs twice", name, token.id);
    }
    if (!by_content.emplace(token.content, token.id).second) {
      fail(ErrorCode::kFormat, "{}: {} occurs twice", name, shown(token.content));
    }
    if (token.normalized) {
      normalized_finder.add(nfc ? to_nfc(token.content) : token.content, token);
    } else {
      raw_finder.add(token.content, token);
    }
    added.push_back(std::move(token));
  }
}

void Tokenizer::Data::read_post_processor(const Json* json, const std::string& name, int depth) {
  if (json == nullptr) return;
  const std::string type = get_string(*json, "type", name);
  if (type == "ByteLevel") return;
  if (type == "Sequence" && depth < kMaxDepth) {
    for (const Json& step : get_array(*json, "processors", name)) read_post_processor(&step, name, depth + 1);
    return;
  }
  if (type != "TemplateProcessing") {
    fail(ErrorCode::kFormat, "{}: type: expected ByteLevel, TemplateProcessing or Sequence, found {}", name,
         shown(type));
  }
  const std::string special_name = within(name, "special_tokens");
  const std::string single_name = within(name, "single");
  bool seen_text = false;
  for (const Json& piece : get_array(*json, "single", name, 256)) {
    const Json* special_token = find_field(piece, "SpecialToken", single_name);
    if (special_token == nullptr) {
      get_object(piece, "Sequence", single_name);
      if (seen_text) fail(ErrorCode::kFormat, "{}: unsupported: the text occurs twice", single_name);
      seen_text = true;
      continue;
    }
    const std::string id = get_string(*special_token, "id", single_name);
    const Json& entry = get_object(get_object(*json, "special_tokens", name), id, special_name);
    for (const std::int64_t value : get_ints(entry, "ids", special_name, 0, Vocabulary::kMaxId, 256)) {
      (seen_text ? suffix : prefix).push_back(static_cast<std::int32_t>(value));
    }
  }
}

std::string_view Tokenizer::Data::bytes(std::int32_t id) const {
  const auto found = by_id.find(id);
  return found != by_id.end() ? std::string_view(added[found->second].content) : model.vocabulary().bytes(id);
}

bool Tokenizer::Data::special(std::int32_t id) const {
  const auto found = by_id.find(id);
  return found != by_id.end() && added[found->second].special;
}

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
  const bool ignore_merges = get_bool_or(settings, "ignore_merges", model_name, false);
  Bpe model(std::move(vocabulary), std::move(merges), ignore_merges);
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
  check_type(model, model_name);
  Vocabulary vocabulary =
      read_vocabulary(get_object(model, "vocab", model_name), within(model_name, "vocab"));
  std::vector<MergeRule> merges = read_merges(get_array(model, "merges", model_name, kMaxMerges), vocabulary,
                                              within(model_name, "merges"));
  json["model"].erase("vocab");
  json["model"].erase("merges");
  return from_model(std::move(json), std::move(vocabulary), std::move(merges), name);
}

Tokenizer Tokenizer::from_gpt2(std::string_view encoder_json, std::string_view vocab_bpe,
                               std::string_view name) {
  const std::string file(name);
  Vocabulary vocabulary = read_vocabulary(parse_json(encoder_json, name), file);
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

Tokenizer Tokenizer::with_chat_template(std::string chat_template) const {
  Tokenizer copy = *this;
  copy.config_.chat_template = std::move(chat_template);
  return copy;
}

}  // namespace stem
