// Chat templates against jinja2 (goldens made by tools/make_chat_template_goldens.py), and what is refused.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "core/error.h"
#include "io/file.h"

namespace stem {
namespace {

const Json& golden() {
  static const Json json =
      parse_json(read_file(std::filesystem::path(STEM_SOURCE_DIR) / "tests/golden/chat/templates.json"),
                 "templates.json");
  return json;
}

ChatTemplateInput input_of(const Json& given) {
  ChatTemplateInput input;
  input.bos_token = "<s>";
  input.eos_token = "</s>";
  input.now = golden()["now"].get<std::time_t>();
  for (const auto& [key, value] : given.items()) {
    if (key == "messages") {
      input.messages = value;
    } else if (key == "add_generation_prompt") {
      input.add_generation_prompt = value.get<bool>();
    } else {
      input.variables[key] = value;
    }
  }
  return input;
}

std::string message_of(const std::function<void()>& act, ErrorCode code = ErrorCode::kFormat) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

std::string rendered(std::string_view source, const Json& variables = Json::object()) {
  ChatTemplateInput input;
  input.variables = variables;
  return ChatTemplate(source, "t").render(input);
}

TEST(ChatTemplate, FamiliesRenderLikeTheReference) {
  ASSERT_GE(golden()["families"].size(), 8u);
  for (const Json& family : golden()["families"]) {
    const ChatTemplate chat(family["template"].get<std::string>(), "t");
    for (std::size_t i = 0; i < golden()["inputs"].size(); ++i) {
      SCOPED_TRACE(family["name"].get<std::string>() + " " + std::to_string(i));
      const Json& result = family["results"][i];
      const ChatTemplateInput input = input_of(golden()["inputs"][i]);
      if (result.contains("text")) {
        EXPECT_EQ(chat.render(input), result["text"].get<std::string>());
      } else if (result["error"].get<std::string>().find("undefined") == std::string::npos &&
                 result["error"].get<std::string>().find("has no attribute") == std::string::npos) {
        const std::string message = message_of([&] { (void)chat.render(input); }, ErrorCode::kMismatch);
        EXPECT_TRUE(message.starts_with("t: line ")) << message;
        EXPECT_TRUE(message.ends_with(": " + result["error"].get<std::string>())) << message;
      } else {
        message_of([&] { (void)chat.render(input); });
      }
    }
  }
}

TEST(ChatTemplate, SmallTemplatesRenderLikeTheReference) {
  ASSERT_GE(golden()["small"].size(), 80u);
  for (const Json& small : golden()["small"]) {
    const auto source = small["template"].get<std::string>();
    try {
      const Json given = {{"messages", Json::array({golden()["inputs"][2]["messages"][0],
                                                    golden()["inputs"][2]["messages"][1]})}};
      EXPECT_EQ(ChatTemplate(source, "t").render(input_of(given)), small["text"].get<std::string>())
          << source;
    } catch (const Error& error) {
      ADD_FAILURE() << source << "\n" << error.what();
    }
  }
}

TEST(ChatTemplate, WhatIsNotUnderstoodIsNamed) {
  struct Case {
    const char* source;
    const char* message;
  };
  const std::vector<Case> cases{
      {"a\n{% macro x() %}{% endmacro %}", "t: line 2: unsupported: the statement \"macro\""},
      {"{% include 'x' %}", "t: line 1: unsupported: the statement \"include\""},
      {"{% if x %}", "t: line 1: expected endif before the end of the template"},
      {"{% for x in y %}\n{% if x %}{% endfor %}", "t: line 2: endfor without its beginning"},
      {"{% endif %}", "t: line 1: endif without its beginning"},
      {"{% else %}", "t: line 1: else without its beginning"},
      {"{% break %}", "t: line 1: break outside of a loop"},
      {"\n\n{{ a b }}", "t: line 3: expected the end of the tag, found \"b\""},
      {"{{ }}", "t: line 1: expected an expression, found the end of the tag"},
      {"{{ a[ }}", "t: line 1: an unexpected }"},
      {"{{ (a }}", "t: line 1: an unexpected }"},
      {"{{ a ? b }}", "t: line 1: an unexpected character, byte 0x3F"},
      {"{{ 'a }}", "t: line 1: a string without its end '"},
      {"{{ 1", "t: line 1: a tag without its end }}"},
      {"{# x", "t: line 1: a comment without its end #}"},
      {"{{ 2 ** 3 }}", "t: line 1: unsupported: the operator **"},
      {"{{ f(*x) }}", "t: line 1: unsupported: * in a call"},
      {"{{ 99999999999999999999 }}", "t: line 1: a number beyond 64 bits"},
      {"{{ '\\ud800' }}", "t: line 1: a string with half a character"},
      {"{% for x in y recursive %}{% endfor %}", "t: line 1: unsupported: a recursive loop"},
      {"{% set x | upper %}a{% endset %}", "t: line 1: unsupported: a filter on a set block"},
      {"\n{{ x|shout }}", "t: line 2: unsupported: the filter shout"},
      {"{{ x is odd_looking }}", "t: line 1: unsupported: the test odd_looking"},
      {"{{ cycler(1) }}", "t: line 1: unsupported: the function cycler"},
      {"{{ 'a'.format(1) }}", "t: line 1: unsupported: the method format of a string"},
      {"{{ [].append(1) }}", "t: line 1: unsupported: the method append of a list"},
      {"{{ missing.x }}", "t: line 1: missing is undefined"},
      {"{{ missing + 'a' }}", "t: line 1: missing is undefined"},
      {"{{ {}.x.y }}", "t: line 1: the member x is undefined"},
      {"{{ 'a' + 1 }}", "t: line 1: unsupported: a string + a number"},
      {"{{ '%s' % 1 }}", "t: line 1: unsupported: a string % a number"},
      {"{{ [1] }}", "t: line 1: unsupported: a list as text"},
      {"{{ 1 // 0 }}", "t: line 1: a division by 0"},
      {"{{ 9223372036854775807 + 1 }}", "t: line 1: an integer beyond 64 bits"},
      {"{{ -(-9223372036854775807 - 1) }}", "t: line 1: an integer beyond 64 bits"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "t: line 1: an integer beyond 64 bits"},
      {"{{ 1 < 'a' }}", "t: line 1: cannot order a number and a string"},
      {"{% for x in 5 %}{% endfor %}", "t: line 1: cannot go through a number"},
      {"{% for a, b in [[1]] %}{% endfor %}", "t: line 1: expected 2 values, found 1"},
      {"{% set x = {} %}{% set x.y = 1 %}", "t: line 1: x is no namespace, whose members could be set"},
      {"{% set n = namespace() %}{% set n.n = n %}",
       "t: line 1: unsupported: a namespace within another value"},
      {"{% set n = namespace() %}{{ [n] }}", "t: line 1: unsupported: a namespace within another value"},
      {"{{ 'a'|replace('', 'b') }}", "t: line 1: replace: unsupported: an empty string to look for"},
      {"{{ 'a'.split('') }}", "t: line 1: split: the separator is empty"},
      {"{{ 'a'|trim(1, 2) }}", "t: line 1: trim: expected at most 1 arguments, found 2"},
      {"{{ 'a'|trim(wide=1) }}", "t: line 1: trim: unsupported: the argument wide"},
      {"{{ missing|tojson }}", "t: line 1: tojson: an undefined value is no JSON"},
      {"{{ {'a': 1}.items }}", "t: line 1: unsupported: the method items of a dict as a value"},
      {"{{ x(1) }}", "t: line 1: x is a number, not a function"},
      {"{{ [1][::0] }}", "t: line 1: a slice with a step of 0"},
      {"\xFF", "t: ill-formed UTF-8 at byte 0 (0xFF)"},
  };
  for (const Case& test_case : cases) {
    const std::string_view source = test_case.source;
    const Json variables = source.find("x(1)") != std::string_view::npos ? Json{{"x", 1}} : Json::object();
    const std::string message = message_of([&] { (void)rendered(source, variables); });
    EXPECT_TRUE(message.starts_with(test_case.message)) << source << "\nsaid: " << message;
  }
  EXPECT_EQ(message_of([] { (void)rendered("\n{{ raise_exception('Not so.') }}"); }, ErrorCode::kMismatch),
            "t: line 2: Not so.");
}

TEST(ChatTemplate, TemplatesAreBounded) {
  const auto said = [](const std::string& source) { return message_of([&] { (void)rendered(source); }); };
  const auto repeated = [](std::string_view part, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += part;
    return out;
  };
  const std::string loop = "{% for i in range(1000) %}";
  EXPECT_EQ(said(repeated(loop, 4) + repeated("{% endfor %}", 4)), "t: line 1: more than 2000000 steps");
  EXPECT_EQ(said("{% set n = namespace(s='ab') %}" + loop + "{% set n.s = n.s + n.s %}{% endfor %}"),
            "t: line 1: values of more than 268435456 bytes");
  EXPECT_EQ(said("{% set n = namespace(s=[]) %}" + loop + "{% set n.s = [n.s] %}{% endfor %}"),
            "t: line 1: unsupported: values nested deeper than 64");
  EXPECT_EQ(said("{{ 'abcdefgh' * 1000000000 }}"), "t: line 1: values of more than 268435456 bytes");
  EXPECT_EQ(said("{% set s = 'x' * 1000000 %}" + loop + "{{ s }}{% endfor %}"),
            "t: line 1: an output of more than 67108864 bytes");
  EXPECT_EQ(said("{{ range(1000000000) }}"), "t: line 1: range: expected at most 100000, found 1000000000");
  EXPECT_EQ(said("{{ " + repeated("(", 5000) + repeated(")", 5000) + " }}"),
            "t: line 1: nested deeper than 64");
  EXPECT_EQ(said("{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}"),
            "t: line 1: nested deeper than 64");
  EXPECT_EQ(said("{{ " + repeated("-", 5000) + "1 }}"), "t: line 1: nested deeper than 64");
  EXPECT_EQ(said("{{ " + repeated("not ", 5000) + "1 }}"), "t: line 1: nested deeper than 64");
  EXPECT_EQ(said("{{ 1 " + repeated("+ 1 ", 5000) + "}}"), "t: line 1: an expression deeper than 256");
  EXPECT_EQ(said("{{ a" + repeated(".b", 5000) + "}}"), "t: line 1: an expression deeper than 256");
  EXPECT_EQ(said("{{ a" + repeated("|trim", 5000) + "}}"), "t: line 1: an expression deeper than 256");
  EXPECT_EQ(said(repeated("{% if 1 %}", 5000)), "t: line 1: nested deeper than 64");
  EXPECT_EQ(said(std::string((1 << 20) + 1, ' ')).substr(0, 34), "t: expected a template of at most ");
}

TEST(ChatTemplate, ATemplateCutAnywhereDoesNotCrash) {
  for (const Json& family : golden()["families"]) {
    const auto source = family["template"].get<std::string>();
    for (std::size_t length = 0; length < source.size(); ++length) {
      try {
        (void)ChatTemplate(std::string_view(source).substr(0, length), "t")
            .render(input_of(golden()["inputs"][2]));
      } catch (const Error&) {
        // Either is fine.
      }
    }
  }
}

TEST(ChatTemplate, ContentIsOnlyText) {
  const std::string content = "{{ bos_token }}{% if %}\xFF<|im_end|>";
  EXPECT_EQ(rendered("{{ x }}", {{"x", content}}), content);
}

}  // namespace
}  // namespace stem
