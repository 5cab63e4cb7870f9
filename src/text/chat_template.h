// Chat templates: the Jinja that turns a conversation into a prompt.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace stem {

/// What a template sees.
struct ChatTemplateInput {
  Json messages = Json::array();  ///< objects with at least `role` and `content`
  bool add_generation_prompt = false;
  std::string bos_token, eos_token;
  Json variables = Json::object();  ///< others by name: tools, enable_thinking, …; they win over those above
  std::optional<std::time_t> now;   ///< the time that strftime_now shows, in UTC; the clock's if absent
};

/// A parsed template in the part of Jinja that chat templates use, with the white space rules of Hugging
/// Face's transformers (trim_blocks, lstrip_blocks). Immutable; render may be called from several threads at
/// once.
///
/// Statements   for (with if, else, break, continue; loop.index, index0, revindex, revindex0, first, last,
/// length,
///              previtem, nextitem), if, set (of names, of a namespace's members, blocks), generation (no
///              effect)
/// Expressions  literals, lists, tuples, dicts, and/or/not, comparisons, in, is, + - * / // % ~, a if b else
/// c,
///              members, items, slices, methods of strings and dicts
/// Filters, tests, functions, methods: those of chat_template_calls.cc and chat_template_strings.cc.
/// Anything else is an Error (kFormat) `name: line N: …` that names it.
/// Source: https://jinja.palletsprojects.com/en/stable/templates/
class ChatTemplate {
 public:
  static constexpr std::size_t kMaxSourceBytes = 1 << 20;

  /// Error (kFormat) if the source is not a template of this part of Jinja.
  ChatTemplate(std::string_view source, std::string_view name);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;

  /// The prompt. Error (kMismatch) with the template's own text where it calls raise_exception; Error
  /// (kFormat) that names the line where it asks for the impossible (a member of what is not defined), or
  /// takes more than the allowed steps, memory or output.
  std::string render(const ChatTemplateInput& input) const;

 private:
  struct Parsed;
  std::unique_ptr<const Parsed> parsed_;
};

}  // namespace stem
