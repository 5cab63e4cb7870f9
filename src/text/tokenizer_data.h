// What a Tokenizer holds; for the .cc files of this room.
#pragma once

#include <mutex>
#include <unordered_map>

#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer.h"

namespace stem {

/// `name: field`, for errors about what is inside a field.
std::string within(std::string_view name, std::string_view field);

/// The `pre_tokenizer` of a tokenizer.json; null if it is absent.
const Json& pre_tokenizer_of(const Json& frame);

/// A TemplateProcessing post_processor that puts the token `id`, written `token`, before every text.
Json start_template(std::int32_t id, const std::string& token);

struct Tokenizer::Data {
  Data(Json frame_, Bpe model_, const std::string& name);

  Json frame;  // the tokenizer.json without model.vocab and model.merges
  Bpe model;
  PreTokenizer pre_tokenizer;
  Normalizer normalizer;
  TokenDecoder decoder;
  std::vector<AddedToken> added;                        // in the file's order
  std::unordered_map<std::int32_t, std::size_t> by_id;  // into `added`
  StringMap<std::int32_t> by_content;
  AddedTokenFinder raw_finder, normalized_finder;
  std::vector<std::int32_t> prefix, suffix;

  /// The bytes of a token, added or not; empty if there is none.
  std::string_view bytes(std::int32_t id) const;
  /// The same at the front of a text.
  std::string first_bytes(std::int32_t id) const;
  std::optional<std::int32_t> find_bytes(std::string_view bytes) const;
  bool special(std::int32_t id) const;

 private:
  void add_tokens(const std::string& name);
  void read_post_processor(const Json* json, const std::string& name, int depth);
  void decode_tokens();

  // Of a vocabulary of text: what its tokens and the added ones decode to, and back.
  std::vector<std::string> decoded_;
  StringMap<std::int32_t> by_bytes_;
};

/// Word caches, one per concurrent encode call, so that encoding takes a lock only to fetch one.
class Tokenizer::CachePool {
 public:
  class Lease {
   public:
    explicit Lease(CachePool& pool);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    WordCache& operator*() const { return *cache_; }

   private:
    CachePool& pool_;
    std::unique_ptr<WordCache> cache_;
  };

 private:
  static constexpr std::size_t kMaxIdle = 64;
  std::mutex mutex_;
  std::vector<std::unique_ptr<WordCache>> idle_;
};

}  // namespace stem
