#include "data/chat.h"

#include <array>

#include "core/error.h"
#include "core/names.h"
#include "data/json_lines.h"

namespace stem {
namespace {

constexpr std::array<std::string_view, 3> kRoles{"system", "user", "assistant"},
    kLabels{"System", "User", "Assistant"};
constexpr std::string_view kStart = "<|im_start|>", kEnd = "<|im_end|>";
constexpr std::size_t kMaxMessages = 100'000, kMaxContentBytes = std::size_t{16} << 20;

ChatRole role_from(const std::string& word, const std::string& where) {
  for (std::size_t i = 0; i < kRoles.size(); ++i) {
    if (word == kRoles[i]) return static_cast<ChatRole>(i);
  }
  const std::vector<std::string> known(kRoles.begin(), kRoles.end());
  fail(ErrorCode::kFormat, "{}.role: expected system, user or assistant, found {}{}", where,
       shown(Json(word)), did_you_mean(word, known));
}

std::string content_of(const Json& json, std::string_view key, const std::string& where) {
  std::string text = get_string(json, key, where, kMaxContentBytes);
  if (is_blank_text(text))
    fail(ErrorCode::kFormat, "{}: {}: expected a text, found an empty one", where, key);
  return text;
}

Conversation conversation_from(const Json& line, const std::string& where) {
  Conversation messages;
  if (find_field(line, "messages", where) == nullptr && find_field(line, "prompt", where) != nullptr) {
    messages.push_back({ChatRole::user, content_of(line, "prompt", where)});
    messages.push_back({ChatRole::assistant, content_of(line, "completion", where)});
    return messages;
  }
  for (const Json& message : get_array(line, "messages", where, kMaxMessages)) {
    const std::string place = fmt::format("{}: messages[{}]", where, messages.size());
    const ChatRole role = role_from(get_string(message, "role", place), place);
    messages.push_back({role, content_of(message, "content", place)});
  }
  while (!messages.empty() && messages.back().role != ChatRole::assistant) messages.pop_back();
  if (messages.empty())
    fail(ErrorCode::kFormat, "{}: messages: expected at least one of the assistant, found none", where);
  return messages;
}

// Collects text that nobody is to learn and encodes it in one piece.
class Renderer {
 public:
  explicit Renderer(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void read(std::string_view text) { pending_ += text; }
  void learn(const std::string& text) {
    flush();
    append(text, 1);
  }
  void mark(std::string_view token, bool is_target) {
    flush();
    made_.tokens.push_back(tokenizer_.token_id(token).value());
    made_.is_target.push_back(is_target ? 1 : 0);
  }
  RenderedChat take() {
    flush();
    return std::move(made_);
  }

 private:
  void flush() {
    append(pending_, 0);
    pending_.clear();
  }
  void append(const std::string& text, std::uint8_t is_target) {
    if (text.empty()) return;
    const auto ids = tokenizer_.encode(text, false);
    made_.tokens.insert(made_.tokens.end(), ids.begin(), ids.end());
    made_.is_target.resize(made_.tokens.size(), is_target);
  }

  const Tokenizer& tokenizer_;
  RenderedChat made_;
  std::string pending_;
};

}  // namespace

std::vector<Conversation> parse_conversations(std::string_view text, std::string_view name) {
  std::vector<Conversation> all;
  for_each_json_line(text, name, [&](const Json& line, const std::string& where) {
    all.push_back(conversation_from(line, where));
  });
  if (all.empty()) fail(ErrorCode::kFormat, "{}: expected at least one conversation, found none", name);
  return all;
}

std::string_view name_of(ChatForm form) {
  return form == ChatForm::chatml ? "chatml" : "plain";
}

ChatForm chat_form_of(const Tokenizer& tokenizer) {
  return tokenizer.token_id(kStart) && tokenizer.token_id(kEnd) ? ChatForm::chatml : ChatForm::plain;
}

RenderedChat render_chat(const Tokenizer& tokenizer, ChatForm form, const Conversation& conversation) {
  Renderer out(tokenizer);
  for (const ChatMessage& m : conversation) {
    const auto role = static_cast<std::size_t>(m.role);
    const bool answers = m.role == ChatRole::assistant;
    if (form == ChatForm::plain) {
      out.read(std::string(kLabels[role]) + ":");
      const std::string line = " " + m.content + "\n";
      answers ? out.learn(line) : out.read(line);
      continue;
    }
    out.mark(kStart, false);
    out.read(std::string(kRoles[role]) + "\n");
    answers ? out.learn(m.content) : out.read(m.content);
    out.mark(kEnd, answers);
    out.read("\n");
  }
  return out.take();
}

}  // namespace stem
