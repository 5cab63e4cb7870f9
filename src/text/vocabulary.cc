#include "text/vocabulary.h"

#include "core/error.h"
#include "io/json.h"
#include "text/byte_alphabet.h"

namespace stem {

void Vocabulary::reserve(std::size_t tokens) {
  tokens_.reserve(tokens);
  made_.reserve(tokens);
}

std::optional<std::string> Vocabulary::spelled(std::string_view written) const {
  return spelling_ == Spelling::kText ? std::string(written) : from_alphabet(written);
}

void Vocabulary::add(std::string_view written, std::int64_t id, std::string_view name) {
  if (id < 0 || id > kMaxId) {
    fail(ErrorCode::kFormat, "{}: token {}: expected an id in [0, {}], found {}", name,
         shown(std::string(written)), kMaxId, id);
  }
  if (written.empty() || written.size() > kMaxTokenBytes) {
    fail(ErrorCode::kFormat, "{}: id {}: expected a token of 1 to {} bytes, found {}", name, id,
         kMaxTokenBytes, written.size());
  }
  const auto narrow = static_cast<std::int32_t>(id);
  if (contains(narrow)) {
    fail(ErrorCode::kFormat, "{}: id {} is given to {} and to {}", name, id, shown(this->written(narrow)),
         shown(std::string(written)));
  }
  std::optional<std::string> bytes = spelled(written);
  auto& map = bytes ? made_ : literal_;
  std::string text = bytes ? std::move(*bytes) : std::string(written);
  const auto [where, added] = map.emplace(text, narrow);
  if (!added) {
    fail(ErrorCode::kFormat, "{}: token {} has two ids, {} and {}", name, shown(std::string(written)),
         where->second, id);
  }
  if (narrow >= size()) tokens_.resize(static_cast<std::size_t>(id) + 1);
  tokens_[static_cast<std::size_t>(id)] = {std::move(text), bytes ? Kind::kMade : Kind::kLiteral};
}

std::string_view Vocabulary::bytes(std::int32_t id) const {
  if (!contains(id)) return {};
  return tokens_[static_cast<std::size_t>(id)].bytes;
}

std::string Vocabulary::written(std::int32_t id) const {
  require(contains(id), "a token of the vocabulary");
  const Token& token = tokens_[static_cast<std::size_t>(id)];
  return token.kind == Kind::kMade && spelling_ == Spelling::kByteAlphabet ? to_alphabet(token.bytes)
                                                                           : token.bytes;
}

std::optional<std::int32_t> Vocabulary::find_bytes(std::string_view bytes) const {
  const auto found = made_.find(bytes);
  return found == made_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::int32_t> Vocabulary::find_literal(std::string_view text) const {
  const auto found = literal_.find(text);
  return found == literal_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::int32_t> Vocabulary::find_written(std::string_view written) const {
  const std::optional<std::string> bytes = spelled(written);
  return bytes ? find_bytes(*bytes) : find_literal(written);
}

}  // namespace stem
