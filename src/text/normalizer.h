// What happens to text before it is cut into words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "text/pattern.h"

namespace stem {

/// The normalizer of a tokenizer.json: NFC, Prepend, Replace, or a Sequence of these. Immutable and safe to
/// share between threads.
class Normalizer {
 public:
  /// From the `normalizer` value; null changes nothing. Error (kFormat) that names what is unsupported.
  Normalizer(const Json* json, std::string_view name);

  /// True if apply(text) is surely `text` itself; a look at the bytes.
  bool keeps(std::string_view text) const;
  /// The normalised form of well-formed UTF-8. Prepend puts nothing before an empty text.
  std::string apply(std::string_view text) const;

 private:
  struct Step {
    enum class Kind { kNfc, kPrepend, kReplace };
    Kind kind;
    std::string content;           // what is put in
    std::vector<Pattern> pattern;  // one, of kReplace
  };
  void add(const Json& json, std::string_view name, int depth);

  std::vector<Step> steps_;
};

}  // namespace stem
