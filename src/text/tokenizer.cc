#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "text/tokenizer_data.h"
#include "text/utf8.h"

namespace stem {

Tokenizer::CachePool::Lease::Lease(CachePool& pool) : pool_(pool) {
  {
    const std::lock_guard lock(pool.mutex_);
    if (!pool.idle_.empty()) {
      cache_ = std::move(pool.idle_.back());
      pool.idle_.pop_back();
    }
  }
  if (!cache_) cache_ = std::make_unique<WordCache>();
}

Tokenizer::CachePool::Lease::~Lease() {
  const std::lock_guard lock(pool_.mutex_);
  if (pool_.idle_.size() < kMaxIdle) pool_.idle_.push_back(std::move(cache_));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool allow_special) const {
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 4 + 1);
  const CachePool::Lease cache(*caches_);
  const Data& data = *data_;
  const char* const front = text.data();
  const auto encode_word = [&](std::string_view word) { data.model.encode_word(word, *cache, ids); };
  // `whole`: normalised text that nothing comes before, or null
  const auto encode_normalized = [&](std::string_view normalized, const char* whole) {
    data.normalized_finder.for_each_piece(
        normalized, allow_special, [&](std::string_view piece, std::int32_t id) {
          if (id >= 0) {
            ids.push_back(id);
          } else {
            data.pre_tokenizer.for_each_word(piece, encode_word, piece.data() == whole);
          }
        });
  };
  const auto encode_raw = [&](std::string_view piece, std::int32_t id) {
    const bool first = piece.data() == front;
    if (id >= 0) {
      ids.push_back(id);
    } else if (data.normalizer.keeps(piece)) {
      encode_normalized(piece, first ? piece.data() : nullptr);
    } else {
      const std::string normalized = data.normalizer.apply(piece);
      encode_normalized(normalized, first ? normalized.data() : nullptr);
    }
  };
  while (!text.empty()) {
    const std::size_t valid = utf8_valid_prefix(text);
    data.raw_finder.for_each_piece(text.substr(0, valid), allow_special, encode_raw);
    text.remove_prefix(valid);
    if (text.empty()) break;
    encode_word(text.substr(0, 1));
    text.remove_prefix(1);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special, bool continues) const {
  std::string bytes;
  bool first = !continues;
  for (const std::int32_t id : ids) {
    if (!has_token(id) || (skip_special && is_special(id))) continue;
    if (std::exchange(first, false)) {
      bytes += data_->first_bytes(id);
    } else {
      bytes += data_->bytes(id);
    }
  }
  if (!continues) {
    const std::string& content = data_->decoder.strip_content();
    std::size_t strip = 0;
    for (std::size_t i = 0; i < data_->decoder.strip_count(); ++i) {
      if (!std::string_view(bytes).substr(strip).starts_with(content)) break;
      strip += content.size();
    }
    bytes.erase(0, strip);
  }
  if (utf8_valid_prefix(bytes) == bytes.size()) return bytes;
  std::string text;
  append_lossy(bytes, false, text);
  return text;
}

std::string Tokenizer::token_bytes(std::int32_t id) const {
  if (!has_token(id)) {
    fail(ErrorCode::kNotFound, "token id {} is not in the vocabulary (ids are below {})", id, vocab_size());
  }
  return std::string(data_->bytes(id));
}

bool Tokenizer::has_token(std::int32_t id) const {
  return data_->by_id.contains(id) || data_->model.vocabulary().contains(id);
}

bool Tokenizer::is_special(std::int32_t id) const {
  return data_->special(id);
}

std::optional<std::int32_t> Tokenizer::token_id(std::string_view bytes) const {
  return data_->find_bytes(bytes);
}

std::int32_t Tokenizer::vocab_size() const {
  std::int32_t size = data_->model.vocabulary().size();
  for (const AddedToken& token : data_->added) size = std::max(size, token.id + 1);
  return size;
}

std::span<const AddedToken> Tokenizer::added_tokens() const {
  return data_->added;
}
std::span<const std::int32_t> Tokenizer::prefix_ids() const {
  return data_->prefix;
}
std::span<const std::int32_t> Tokenizer::suffix_ids() const {
  return data_->suffix;
}
const std::optional<std::string>& Tokenizer::chat_template() const {
  return config_.chat_template;
}

std::optional<std::int32_t> Tokenizer::eos_id() const {
  if (config_.eos) return token_id(*config_.eos);
  for (const std::string_view usual : {"<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "</s>"}) {
    if (const auto id = token_id(usual)) return id;
  }
  return std::nullopt;
}

std::optional<std::int32_t> Tokenizer::start_id() const {
  if (!prefix_ids().empty()) return prefix_ids().front();
  return config_.bos || config_.eos ? std::nullopt : eos_id();
}

std::optional<std::int32_t> Tokenizer::bos_id() const {
  return config_.bos ? token_id(*config_.bos) : std::nullopt;
}

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special, bool continues)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special), continues_(continues) {
  start();
}

void StreamDecoder::start() {
  held_.clear();
  first_ = !continues_;
  strip_left_ = continues_ ? 0 : tokenizer_.data_->decoder.strip_count();
}

std::string StreamDecoder::push(std::int32_t id) {
  if (!tokenizer_.has_token(id) || (skip_special_ && tokenizer_.is_special(id))) return {};
  const Tokenizer::Data& data = *tokenizer_.data_;
  if (std::exchange(first_, false)) {
    held_ += data.first_bytes(id);
  } else {
    held_ += data.bytes(id);
  }
  const std::string& content = data.decoder.strip_content();
  while (strip_left_ > 0 && !held_.empty()) {
    if (held_.starts_with(content)) {
      held_.erase(0, content.size());
      --strip_left_;
    } else if (content.starts_with(held_)) {
      return {};  // may yet become it
    } else {
      strip_left_ = 0;
    }
  }
  std::string text;
  held_.erase(0, append_lossy(held_, true, text));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_lossy(held_, false, text);
  start();
  return text;
}

}  // namespace stem
