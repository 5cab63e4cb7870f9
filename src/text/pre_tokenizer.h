// From text to the words that BPE encodes one by one.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "text/pattern.h"

namespace stem {

/// The pre-tokenizer of a byte-level BPE in the Hugging Face format. Supported: ByteLevel, Split, Digits and
/// Sequence of these; ByteLevel must come once and last. Immutable and safe to share between threads.
class PreTokenizer {
 public:
  /// From the `pre_tokenizer` value of a tokenizer.json. Error (kFormat) that names what is unsupported.
  PreTokenizer(const Json& json, std::string_view name);

  /// Calls emit(word) for the words of `text` (well-formed UTF-8), in order. The view lives only for the
  /// call.
  void for_each_word(std::string_view text, const std::function<void(std::string_view)>& emit) const;

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
  void run(std::size_t stage, std::string_view text, const std::function<void(std::string_view)>& emit) const;

  std::vector<Stage> before_;      // the stages before ByteLevel
  std::vector<Stage> byte_level_;  // ByteLevel's own pattern, or empty
  bool has_byte_level_ = false;
  bool add_prefix_space_ = false;
};

}  // namespace stem
