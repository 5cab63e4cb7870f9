// Tokens of an answer as text that can be shown at once, until a stop string.
#pragma once

#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace stem {

/// Decodes a stream of ids and looks for stop strings in it, whatever tokens they are cut into. Text that may
/// become a stop string is held back, as is the beginning of a character. All results joined are the text
/// before the first stop string (the one that is complete first; of those, the one that begins first).
class TextStream {
 public:
  /// No stop string may be empty. `continues`: as in Tokenizer::decode.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops, bool skip_special, bool continues);

  /// The text that `id` makes certain; nothing more comes once `stopped`.
  std::string push(std::int32_t id);
  /// What was held back, at the end of the tokens.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::string release(bool last);

  StreamDecoder decoder_;
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace stem
