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

/// Ids need not be contiguous. A token is either byte-level (written in the byte alphabet) or literal (its
/// written form holds another character, so BPE never makes it and it stands for its own UTF-8).
class Vocabulary {
 public:
  static constexpr std::int32_t kMaxId = (1 << 22) - 1;
  static constexpr std::size_t kMaxTokenBytes = 1 << 16;

  /// Adds a token as a tokenizer.json writes it. Error (kFormat) if the text or the id is taken, the id is
  /// not in [0, kMaxId], or the text is empty or too long.
  void add(std::string_view written, std::int64_t id, std::string_view name);
  void reserve(std::size_t tokens);

  std::int32_t size() const { return static_cast<std::int32_t>(tokens_.size()); }  ///< largest id + 1
  std::size_t count() const { return byte_level_.size() + literal_.size(); }       ///< tokens
  bool contains(std::int32_t id) const {
    return id >= 0 && id < size() && tokens_[static_cast<std::size_t>(id)].kind != Kind::kAbsent;
  }
  /// The bytes of a token; empty if there is no such id.
  std::string_view bytes(std::int32_t id) const;
  /// The token as a tokenizer.json writes it; `id` must exist.
  std::string written(std::int32_t id) const;

  std::optional<std::int32_t> find_bytes(std::string_view bytes) const;      ///< among byte-level tokens
  std::optional<std::int32_t> find_literal(std::string_view text) const;     ///< among literal tokens
  std::optional<std::int32_t> find_written(std::string_view written) const;  ///< among all

 private:
  enum class Kind : std::uint8_t { kAbsent, kByteLevel, kLiteral };
  struct Token {
    std::string bytes;
    Kind kind = Kind::kAbsent;
  };
  std::vector<Token> tokens_;  // by id
  StringMap<std::int32_t> byte_level_, literal_;
};

}  // namespace stem
