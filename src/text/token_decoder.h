// From tokens back to text: what a tokenizer.json calls its decoder.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/json.h"

namespace stem {

/// The decoder of a tokenizer.json over text: Replace (of a string), ByteFallback, Metaspace, Fuse, Strip
/// after Fuse, or a Sequence of these; or, for byte-level BPE, ByteLevel, which leaves all as it is.
/// Immutable.
class TokenDecoder {
 public:
  /// From the `decoder` value. Error (kFormat) that names what is unsupported.
  TokenDecoder(const Json* json, bool byte_level, std::string_view name);

  /// The bytes of a token that is written so. Ill-formed bytes of ByteFallback are kept here: what shows
  /// them replaces only the ill-formed ones, where Hugging Face's library replaces all of a row of them.
  std::string bytes(std::string_view written) const { return decode(written, false); }
  /// The same at the front of a text.
  std::string first_bytes(std::string_view written) const { return decode(written, true); }
  /// Whether the two may differ.
  bool first_differs() const { return first_differs_; }

  /// How many times the front of a whole text loses `strip_content()`, if it is there.
  std::size_t strip_count() const { return strip_count_; }
  const std::string& strip_content() const { return strip_content_; }

 private:
  struct Step {
    enum class Kind { kReplace, kByteFallback, kMetaspace };
    Kind kind;
    std::string pattern, content;
    bool drop_in_first = false;  // Metaspace: the first token loses its marks
  };
  void add(const Json& json, std::string_view name, int depth);
  std::string decode(std::string_view written, bool first) const;

  std::vector<Step> steps_;
  bool fused_ = false;
  bool first_differs_ = false;
  std::size_t strip_count_ = 0;
  std::string strip_content_;
};

/// The byte that a token like "<0x0A>" stands for, or -1.
int byte_of_token(std::string_view written);
/// "<0x0A>" for 10.
std::string token_of_byte(unsigned char byte);

}  // namespace stem
