// From text to the words that BPE encodes one by one.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "text/pattern.h"

namespace stem {

/// The settings of a Metaspace, which marks spaces with a character that is seen.
struct Metaspace {
  enum class Prepend { kFirst, kNever, kAlways };
  std::string replacement;  ///< one character, for a space
  Prepend prepend =
      Prepend::kAlways;  ///< whether a mark is put in front: of the first piece of a text, of all
  bool split = true;     ///< a new word at every mark
};
/// From a pre_tokenizer or decoder of that type.
Metaspace read_metaspace(const Json& json, std::string_view name);

/// The `pattern` of a Split or a Replace: {"Regex": "…"} or {"String": "…"}, which must not be empty.
Pattern read_pattern(const Json& json, std::string_view name);

/// The pre-tokenizer of a BPE in the Hugging Face format. Supported: ByteLevel, Metaspace, Split, Digits and
/// Sequence of these, and null; ByteLevel or Metaspace must come once and last. Immutable and safe to share
/// between threads.
class PreTokenizer {
 public:
  /// From the `pre_tokenizer` value of a tokenizer.json. Error (kFormat) that names what is unsupported.
  PreTokenizer(const Json& json, std::string_view name);

  /// Whether words are encoded as bytes, not as characters.
  bool byte_level() const { return has_byte_level_; }

  /// Calls emit(word) for the words of `text` (well-formed UTF-8), in order. The view lives only for the
  /// call. `first`: nothing of the whole text comes before `text`.
  void for_each_word(std::string_view text, const std::function<void(std::string_view)>& emit,
                     bool first = true) const;

  /// The value that a tokenizer trained here stores: ByteLevel with GPT-2's pattern if `pattern` is empty,
  /// else Split at `pattern`, isolated, then ByteLevel.
  static Json describe(std::string_view pattern);

 private:
  struct Stage {
    Pattern pattern;
    SplitBehavior behavior;
    bool invert;
  };
  void add(const Json& json, std::string_view name);
  void run(std::size_t stage, std::string_view text, bool first,
           const std::function<void(std::string_view)>& emit) const;
  void run_metaspace(std::string_view text, bool first,
                     const std::function<void(std::string_view)>& emit) const;

  std::vector<Stage> before_;      // the stages before the last
  std::vector<Stage> byte_level_;  // ByteLevel's own pattern, or empty
  bool has_byte_level_ = false;
  bool add_prefix_space_ = false;
  std::optional<Metaspace> metaspace_;
  std::vector<Stage> marks_;  // Metaspace's own pattern, or empty
};

}  // namespace stem
