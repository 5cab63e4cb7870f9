// Conversations as training text: read, rendered, and marked where the assistant speaks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace stem {

enum class ChatRole { system, user, assistant };

struct ChatMessage {
  ChatRole role = ChatRole::user;
  std::string content;
};

using Conversation = std::vector<ChatMessage>;

/// One conversation a line: {"messages": [{"role": "system" | "user" | "assistant", "content": text}, …]}, or
/// {"prompt": text, "completion": text}, which is a user's message and the answer. Messages behind the last
/// answer are left out: nothing of them would be learnt. kFormat with `name`, line, field, expected and
/// found: another role, an empty content, no answer at all, no conversation at all.
std::vector<Conversation> parse_conversations(std::string_view text, std::string_view name);

/// How a conversation becomes text.
///   chatml  "<|im_start|>ROLE\nCONTENT<|im_end|>\n" a message; the marks are the tokenizer's tokens
///   plain   "System: CONTENT\n", "User: CONTENT\n", "Assistant: CONTENT\n"
enum class ChatForm { chatml, plain };
std::string_view name_of(ChatForm form);
/// chatml for a tokenizer with the tokens <|im_start|> and <|im_end|>, else plain.
ChatForm chat_form_of(const Tokenizer& tokenizer);

/// Tokens of one conversation without a start token, and which of them are targets.
struct RenderedChat {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t>
      is_target;  ///< 1: the assistant's content and its end mark (<|im_end|>, line break)
};

/// Renders a conversation. The tokens before an answer are those of the whole text up to there, as a prompt
/// that is typed later gives them. Special tokens written in a content are text.
RenderedChat render_chat(const Tokenizer& tokenizer, ChatForm form, const Conversation& conversation);

}  // namespace stem
