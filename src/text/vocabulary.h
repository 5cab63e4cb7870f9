// The tokens of a model: ids, and the bytes they stand for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace stem {

/// Lets maps keyed by std::string be searched with a std::string_view.
struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <class Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

/// How the tokens that BPE makes are written in a tokenizer.json.
enum class Spelling : std::uint8_t {
  kByteAlphabet,  ///< byte-level BPE: in the byte alphabet
  kText,          ///< BPE over characters: as they are
};

/// Ids need not be contiguous. Where the spelling is the byte alphabet, a token is either byte-level or
/// literal (its written form holds another character, so BPE never makes it and it stands for its own UTF-8);
/// of text, all are as they are written.
class Vocabulary {
 public:
  explicit Vocabulary(Spelling spelling = Spelling::kByteAlphabet) : spelling_(spelling) {}
  Spelling spelling() const { return spelling_; }

  static constexpr std::int32_t kMaxId = (1 << 22) - 1;
  static constexpr std::size_t kMaxTokenBytes = 1 << 16;

  /// Adds a token as a tokenizer.json writes it. Error (kFormat) if the text or the id is taken, the id is
  /// not in [0, kMaxId], or the text is empty or too long.
  void add(std::string_view written, std::int64_t id, std::string_view name);
  void reserve(std::size_t tokens);

  std::int32_t size() const { return static_cast<std::int32_t>(tokens_.size()); }  ///< largest id + 1
  std::size_t count() const { return made_.size() + literal_.size(); }             ///< tokens
  bool contains(std::int32_t id) const {
    return id >= 0 && id < size() && tokens_[static_cast<std::size_t>(id)].kind != Kind::kAbsent;
  }
  /// The bytes of a token; empty if there is no such id.
  std::string_view bytes(std::int32_t id) const;
  /// The token as a tokenizer.json writes it; `id` must exist.
  std::string written(std::int32_t id) const;

  std::optional<std::int32_t> find_bytes(std::string_view bytes) const;      ///< among tokens of BPE
  std::optional<std::int32_t> find_literal(std::string_view text) const;     ///< among literal tokens
  std::optional<std::int32_t> find_written(std::string_view written) const;  ///< among all

 private:
  enum class Kind : std::uint8_t { kAbsent, kMade, kLiteral };
  struct Token {
    std::string bytes;
    Kind kind = Kind::kAbsent;
  };
  /// What `written` spells, if BPE can make it.
  std::optional<std::string> spelled(std::string_view written) const;

  Spelling spelling_;
  std::vector<Token> tokens_;  // by id
  StringMap<std::int32_t> made_, literal_;
};

}  // namespace stem
