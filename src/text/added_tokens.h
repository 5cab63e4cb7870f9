// Tokens that are found in the text before anything else happens to it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stem {

/// A token outside BPE, such as "<|endoftext|>". The flags mean what they mean in a tokenizer.json.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;      ///< control token: may be left unencoded, is left out by decode(skip_special)
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< looked for in the normalised text
  bool operator==(const AddedToken&) const = default;
};

/// Finds a set of added tokens in text: leftmost first, of those the longest. Immutable.
class AddedTokenFinder {
 public:
  static constexpr std::size_t kMaxContentBytes = 1024;

  AddedTokenFinder() { first_.fill(-1); }

  /// Adds a token to look for as `pattern` (its content, normalised or not).
  void add(std::string_view pattern, const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  /// Calls emit(piece, id) for what is between the tokens (id -1, never empty) and for the tokens, in order.
  /// Special tokens count as plain text unless `allow_special`.
  void for_each_piece(std::string_view text, bool allow_special,
                      const std::function<void(std::string_view, std::int32_t)>& emit) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, std::int32_t>> children;
    std::int32_t token = -1;  // index into tokens_
  };
  std::int32_t child(std::int32_t node, unsigned char byte) const;
  /// The longest token at the front of `text`: its index (or -1) and length.
  std::pair<std::int32_t, std::size_t> match(std::string_view text) const;

  std::vector<Node> nodes_{1};
  std::array<std::int32_t, 256> first_;  // the children of the root
  std::vector<AddedToken> tokens_;
};

}  // namespace stem
