#include "generate/chat_prompt.h"

#include "core/error.h"

namespace stem {
namespace {

const std::string& template_of(const Tokenizer& tokenizer) {
  if (!tokenizer.chat_template())
    fail(ErrorCode::kUsage,
         "tokenizer_config.json: chat_template: expected one, found none: this model was not made for chat");
  return *tokenizer.chat_template();
}

}  // namespace

ChatPrompt::ChatPrompt(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), template_(template_of(tokenizer), "chat_template") {}

std::vector<std::int32_t> ChatPrompt::encode(const std::vector<ChatTurn>& turns) const {
  ChatTemplateInput input;
  input.add_generation_prompt = true;
  const auto text_of = [&](std::optional<std::int32_t> id) {
    return id ? tokenizer_.token_bytes(*id) : std::string();
  };
  input.bos_token = text_of(tokenizer_.bos_id());
  input.eos_token = text_of(tokenizer_.eos_id());
  for (const ChatTurn& turn : turns) {
    for (const AddedToken& token : tokenizer_.added_tokens()) {
      if (token.special && turn.content.find(token.content) != std::string::npos)
        fail(ErrorCode::kUsage, "a message: expected text, found the special token \"{}\"", token.content);
    }
    input.messages.push_back({{"role", turn.role}, {"content", turn.content}});
  }
  return tokenizer_.encode(template_.render(input));
}

}  // namespace stem
