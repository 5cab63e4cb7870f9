// Text to token ids and back: BPE over bytes or characters, in the format of Hugging Face's tokenizer.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"

namespace stem {

/// An immutable tokenizer. Copies share their data and are cheap; every const function may be called from
/// several threads at once.
///
/// Supported parts of a tokenizer.json; anything else is an Error (kFormat) that names it:
///   model          BPE without dropout, prefix and suffix; byte_fallback, unk_token and fuse_unk over
///   characters normalizer     null, NFC, Prepend, Replace, or a Sequence of these pre_tokenizer  ByteLevel,
///   Metaspace, or a Sequence of Split, Digits and a last one of these two. Without
///                  ByteLevel, BPE is over characters; then null and Split or Digits alone are allowed, too.
///   decoder        ByteLevel (or null) over bytes; over characters Metaspace, or a Sequence of Replace (of a
///                  string), ByteFallback, Metaspace, Fuse, and Strip of the start
///   post_processor ByteLevel, TemplateProcessing, a Sequence of these: not applied by encode, but see
///                  prefix_ids
///   added_tokens   all flags
/// truncation and padding are kept but not applied.
/// Source: https://huggingface.co/docs/tokenizers
class Tokenizer {
 public:
  /// Parses the text of a tokenizer.json; `name` stands for it in errors.
  static Tokenizer from_json(std::string_view json, std::string_view name);
  /// Reads a tokenizer.json, or that of a directory. A tokenizer_config.json beside it gives the chat
  /// template and the bos and eos tokens; chat_template.jinja, if there, the chat template.
  static Tokenizer load(const std::filesystem::path& path);
  /// From GPT-2's files: encoder.json (token to id) and vocab.bpe (a version line, then a merge a line).
  static Tokenizer from_gpt2(std::string_view encoder_json, std::string_view vocab_bpe,
                             std::string_view name);
  /// From llama2.c's tokenizer file: the greatest length of a token, then, for each of `vocab_size` tokens,
  /// score (f32), length (i32) and bytes, little-endian. Ids 0, 1 and 2 are unknown, begin (one of
  /// prefix_ids) and end; bytes without a token of their own are written <0xNN>; a space is put in front of
  /// every text. Source: https://github.com/karpathy/llama2.c
  static Tokenizer from_llama2c(std::string_view bytes, std::int32_t vocab_size, std::string_view name);
  /// From a model and the other members of a tokenizer.json (`frame`, in which `model` may be absent).
  static Tokenizer from_model(Json frame, Vocabulary vocabulary, std::vector<MergeRule> merges,
                              std::string_view name);

  /// The text of a tokenizer.json that gives the same tokenizer, here and in Hugging Face's library.
  std::string to_json() const;
  /// Writes `directory`/tokenizer.json and, if there is something to say in it, tokenizer_config.json. Each
  /// file is replaced whole or not at all.
  void save(const std::filesystem::path& directory) const;

  /// The ids of `text`, without the additions of a post_processor. Special tokens written in the text become
  /// their ids, or are encoded like other text if `allow_special` is false (text from outside in a prompt).
  /// Bytes that are not UTF-8 are encoded one by one; use check_utf8 to refuse them. Error (kMismatch) if the
  /// vocabulary lacks a byte or character that occurs, and has nothing to stand for it.
  std::vector<std::int32_t> encode(std::string_view text, bool allow_special = true) const;

  /// The text of `ids`: always UTF-8, U+FFFD where the bytes are none. Ids without a token (padding rows of a
  /// model's vocabulary) decode to nothing, as do special tokens if `skip_special`. Tokenizers that put a
  /// space in front of a text take it off again, unless the ids are not the start of a text but what
  /// `continues` one.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false,
                     bool continues = false) const;

  /// The exact bytes of a token; of an added token, its content. Error (kNotFound) if there is no such id.
  std::string token_bytes(std::int32_t id) const;
  bool has_token(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  /// The id of the token with exactly these bytes (" Spain", "<|endoftext|>"), if there is one.
  std::optional<std::int32_t> token_id(std::string_view bytes) const;

  /// Largest id + 1; not every id below it need be a token.
  std::int32_t vocab_size() const;
  std::span<const AddedToken> added_tokens() const;

  /// The end-of-text token: as configured, else "<|endoftext|>", "<|end_of_text|>", "<|im_end|>" or "</s>".
  std::optional<std::int32_t> eos_id() const;
  /// The begin-of-text token, if one is configured.
  std::optional<std::int32_t> bos_id() const;
  /// What a TemplateProcessing post_processor puts before and after a single text.
  std::span<const std::int32_t> prefix_ids() const;
  std::span<const std::int32_t> suffix_ids() const;

  /// The token that stands in front of a prompt: the first of prefix_ids; none where a tokenizer with a
  /// tokenizer_config.json asks for none; else, as in models trained here, the end-of-text token.
  std::optional<std::int32_t> start_id() const;

  /// The chat template (Jinja source), if any.
  const std::optional<std::string>& chat_template() const;
  /// A copy with the members of a tokenizer_config.json that matter here: chat_template, bos_token,
  /// eos_token.
  Tokenizer with_config(std::string_view json, std::string_view name) const;
  Tokenizer with_chat_template(std::string chat_template) const;
  /// A copy whose post_processor puts `id` before every text, so that start_id() is `id`; one that has a
  /// prefix stays as it is. Error (kNotFound) if there is no such token.
  Tokenizer with_start(std::int32_t id) const;
  /// True where both give every text the same ids: all but post_processor, which puts tokens around a text,
  /// is the same.
  bool same_ids(const Tokenizer& other) const;

 private:
  friend class StreamDecoder;
  struct Data;
  struct Config {
    std::optional<std::string> chat_template, bos, eos;
  };
  class CachePool;
  Tokenizer() = default;

  std::shared_ptr<const Data> data_;
  std::shared_ptr<CachePool> caches_;
  Config config_;
};

/// Decodes a stream of ids into text that can be shown at once: a character is given out when its last byte
/// has come, never in parts. The results of all push calls and finish(), joined, equal Tokenizer::decode.
class StreamDecoder {
 public:
  /// `continues`: as in Tokenizer::decode, for what a model writes after a prompt.
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false, bool continues = false);

  /// The text that `id` completes; may be empty.
  std::string push(std::int32_t id);
  /// What is held back, as U+FFFD; the decoder is then as new.
  std::string finish();

 private:
  void start();

  Tokenizer tokenizer_;
  bool skip_special_, continues_;
  bool first_ = true;           // no token came yet
  std::size_t strip_left_ = 0;  // how much may still be taken off the front
  std::string held_;            // the first bytes of a character
};

}  // namespace stem
