#include "text/tokenizer_data.h"

#include <utility>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::size_t kMaxAddedTokens = 100'000;
constexpr int kMaxDepth = 8;  // of Sequences within Sequences

}  // namespace

std::string within(std::string_view name, std::string_view field) {
  return fmt::format("{}: {}", name, field);
}

const Json& pre_tokenizer_of(const Json& frame) {
  static const Json null;
  const auto found = frame.find("pre_tokenizer");
  return found == frame.end() ? null : *found;
}

Json start_template(std::int32_t id, const std::string& token) {
  const Json start = {{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const auto text = [](const char* which, int type) {
    return Json{{"Sequence", {{"id", which}, {"type_id", type}}}};
  };
  Json ids = Json::object();
  ids[token] = {{"id", token}, {"ids", Json::array({id})}, {"tokens", Json::array({token})}};
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({start, text("A", 0)})},
          {"pair", Json::array({start, text("A", 0), text("B", 1)})},
          {"special_tokens", std::move(ids)}};
}

Tokenizer::Data::Data(Json frame_, Bpe model_, const std::string& name)
    : frame(std::move(frame_)),
      model(std::move(model_)),
      pre_tokenizer(pre_tokenizer_of(frame), within(name, "pre_tokenizer")),
      normalizer(find_field(frame, "normalizer", name), within(name, "normalizer")),
      decoder(find_field(frame, "decoder", name), pre_tokenizer.byte_level(), within(name, "decoder")) {
  require(pre_tokenizer.byte_level() == (model.vocabulary().spelling() == Spelling::kByteAlphabet),
          "the vocabulary is spelled as the pre-tokenizer says");
  add_tokens(name);
  if (!pre_tokenizer.byte_level()) decode_tokens();
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
      normalized_finder.add(normalizer.apply(token.content), token);
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

void Tokenizer::Data::decode_tokens() {
  const Vocabulary& vocabulary = model.vocabulary();
  decoded_.resize(static_cast<std::size_t>(vocabulary.size()));
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.contains(id)) decoded_[static_cast<std::size_t>(id)] = decoder.bytes(vocabulary.bytes(id));
  }
  for (const AddedToken& token : added) {
    const auto index = static_cast<std::size_t>(token.id);
    if (index >= decoded_.size()) decoded_.resize(index + 1);
    decoded_[index] = decoder.bytes(token.content);
  }
  // "a" is a better answer than <0x61>, so the bytes come last.
  for (const bool of_byte : {false, true}) {
    for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
      if (!vocabulary.contains(id) || (byte_of_token(vocabulary.bytes(id)) >= 0) != of_byte) continue;
      by_bytes_.emplace(decoded_[static_cast<std::size_t>(id)], id);
    }
  }
}

std::string_view Tokenizer::Data::bytes(std::int32_t id) const {
  if (!pre_tokenizer.byte_level()) {
    return id >= 0 && static_cast<std::size_t>(id) < decoded_.size()
               ? std::string_view(decoded_[static_cast<std::size_t>(id)])
               : std::string_view();
  }
  const auto found = by_id.find(id);
  return found != by_id.end() ? std::string_view(added[found->second].content) : model.vocabulary().bytes(id);
}

std::string Tokenizer::Data::first_bytes(std::int32_t id) const {
  if (!decoder.first_differs()) return std::string(bytes(id));
  const auto found = by_id.find(id);
  return decoder.first_bytes(found != by_id.end() ? std::string_view(added[found->second].content)
                                                  : model.vocabulary().bytes(id));
}

std::optional<std::int32_t> Tokenizer::Data::find_bytes(std::string_view bytes) const {
  if (const auto found = by_content.find(bytes); found != by_content.end()) return found->second;
  if (const auto found = by_bytes_.find(bytes); found != by_bytes_.end()) return found->second;
  if (const auto id = model.vocabulary().find_bytes(bytes)) return id;
  return model.vocabulary().find_literal(bytes);
}

bool Tokenizer::Data::special(std::int32_t id) const {
  const auto found = by_id.find(id);
  return found != by_id.end() && added[found->second].special;
}

}  // namespace stem
