// A conversation as the token ids of a prompt, through the model's own chat template.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace stem {

struct ChatTurn {
  std::string role;     ///< "system", "user", "assistant", as the template knows them
  std::string content;  ///< UTF-8
};

/// Renders conversations of one tokenizer.
class ChatPrompt {
 public:
  /// Error (kUsage) if the tokenizer has no chat template, (kFormat) if that is none.
  explicit ChatPrompt(const Tokenizer& tokenizer);

  /// The ids of the whole conversation and the opening of the assistant's next turn. A start token is there
  /// only if the template writes one. Error (kUsage) for a content that spells a special token, which would
  /// pass for the template's own; (kMismatch) if the template refuses the conversation.
  std::vector<std::int32_t> encode(const std::vector<ChatTurn>& turns) const;

 private:
  Tokenizer tokenizer_;
  ChatTemplate template_;
};

}  // namespace stem
