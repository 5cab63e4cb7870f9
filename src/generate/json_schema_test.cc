#include "generate/json_schema.h"

#include <gtest/gtest.h>

#include <chrono>

#include "core/error.h"
#include "core/rng.h"
#include "generate/tiny_model.h"
#include "text/utf8.h"

namespace stem {
namespace {

Json json(std::string_view text) {
  return parse_json(text, "test");
}

enum class Fate { accepted, unfinished, refused };

Fate fate(const SchemaGrammar& grammar, std::string_view text) {
  GrammarMachine machine(grammar.grammar, grammar.root);
  GrammarMachine::State state = machine.start();
  for (const char c : text) {
    state = machine.step(state, static_cast<unsigned char>(c));
    if (state == GrammarMachine::kDead) return Fate::refused;
  }
  return machine.may_end(state) ? Fate::accepted : Fate::unfinished;
}

void expect_language(std::string_view schema, const std::vector<std::string>& members,
                     const std::vector<std::string>& others) {
  const SchemaGrammar grammar = schema_grammar(json(schema));
  for (const std::string& text : members)
    EXPECT_EQ(fate(grammar, text), Fate::accepted) << schema << "  " << text;
  for (const std::string& text : others)
    EXPECT_NE(fate(grammar, text), Fate::accepted) << schema << "  " << text;
}

TEST(JsonSchema, Scalars) {
  expect_language(R"({"type": "string"})", {R"("")", R"("aé€😀")", R"("\n\u00e9\"")", R"( "a")"},
                  {"a", R"("a)", "\"\n\"", R"("\x")", R"("\ud800")", "\"\xff\"", R"("a" )", "1", "null"});
  expect_language(R"({"type": "integer"})", {"0", "-7", "120"}, {"01", "+1", "1.5", "1e3", "-", "", "\"1\""});
  expect_language(R"({"type": "number"})", {"0", "-7.25", "1e5", "1.5E-10", "0.001"},
                  {"01", ".5", "1.", "1e", "NaN"});
  expect_language(R"({"type": ["boolean", "null"]})", {"true", "false", "null"}, {"True", "0"});
  expect_language(R"({"enum": ["red", 3, null, {"a": [1]}]})", {R"("red")", "3", "null", R"({"a":[1]})"},
                  {R"("blue")", "30", R"("re")"});
  expect_language(R"({"const": "x\"y"})", {R"("x\"y")"}, {R"("x")"});
  expect_language(R"({"type": "string", "minLength": 2, "maxLength": 3})", {R"("é€")", R"("a\nb")"},
                  {R"("a")", R"("abcd")", R"("")"});
  expect_language(R"({"type": "string", "minLength": 2})", {R"("ab")", R"("abcdef")"}, {R"("a")"});
}

TEST(JsonSchema, Objects) {
  const char* const person = R"({"type": "object", "title": "Person",
      "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
      "required": ["name", "ok"], "additionalProperties": false})";
  expect_language(person,
                  {R"({"name":"A","age":3,"ok":true})", R"({"name": "A", "ok": false})",
                   "{\n  \"name\": \"A\",\n  \"age\": 3,\n  \"ok\": true\n}"},
                  {R"({"name":"A"})", R"({"ok":true,"name":"A"})", R"({"name":"A","ok":true,"x":1})", "{}",
                   R"({"name":"A",,"ok":true})", R"({"name":"A","ok":true,})", R"({"name":1,"ok":true})"});
  expect_language(R"({"properties": {"a": {"type": "null"}}})", {"{}", R"({"a":null})"},
                  {R"({"b":1})", "[]"});
  const char* const open =
      R"({"type": "object", "properties": {"ab": {"type": "null"}, "a": {"type": "null"}},
      "additionalProperties": {"type": "integer"}})";
  expect_language(
      open,
      {"{}", R"({"ab":null})", R"({"b":1})", R"({"ab":null,"a":null,"abc":2,"x":3})", R"({"a":null,"b":2})"},
      {R"({"ab":1})", R"({"a":1})", R"({"b":null})", R"({"abc":null})", R"({"":1})"});
  expect_language(R"({"type": "object"})", {"{}", R"({"x":[1,{"y":null}]})"}, {"[]", "1"});
  expect_language(R"({"type": "object", "additionalProperties": {"type": "integer"}})", {R"({"é":1,"":2})"},
                  {R"({"a":"b"})"});
}

TEST(JsonSchema, ArraysAndAlternatives) {
  expect_language(R"({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3})",
                  {"[1]", "[1, 2]", "[1,2,3]", "[\n 1\n]"}, {"[]", "[1,2,3,4]", "[1,]", "[,1]", "[\"a\"]"});
  expect_language(R"({"type": "array", "minItems": 2})", {"[1,{}]", "[1,2,3,4,5]"}, {"[]", "[1]"});
  expect_language(R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"});
  expect_language(R"({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"const": 1}}]})",
                  {"5", "[1,1]"}, {"[2]", "null"});
  expect_language(R"({"oneOf": [{"const": "a"}, {"const": "ab"}]})", {R"("a")", R"("ab")"}, {R"("b")"});
  expect_language("{}", {"1", "{}", "[[],{}]", R"("x")", "null"}, {"", "{", "nul"});
}

TEST(JsonSchema, ReferencesMayGoRoundInCircles) {
  const char* const tree = R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
      "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
      "required": ["v", "next"], "additionalProperties": false}}})";
  expect_language(tree, {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
                  {R"({"v":1})", R"({"v":1,"next":{}})"});
  expect_language(R"({"type": "array", "items": {"$ref": "#"}})", {"[]", "[[],[[]]]"}, {"[1]"});
}

// Each level refers to the next one twice: what is looked at once takes no time, what is looked at for every
// way to it would take for ever.
TEST(JsonSchema, ReferencesThatMeetAgainAreFollowedOnce) {
  std::string schema = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int level = 0; level < 60; ++level) {
    const std::string next = R"({"$ref": "#/$defs/d)" + std::to_string(level + 1) + "\"}";
    schema += "\"d" + std::to_string(level) + R"(": {"anyOf": [)" + next + ", " + next + "]}, ";
  }
  expect_language(schema + R"("d60": {"type": "boolean"}}})", {"true", "false"}, {"null", "1"});
}

TEST(JsonSchema, NestingHasABound) {
  const SchemaGrammar any = schema_grammar(Json::object());
  EXPECT_EQ(fate(any, std::string(40, '[')), Fate::unfinished);
  EXPECT_EQ(fate(any, std::string(5000, '[')), Fate::refused);
}

TEST(JsonSchema, WhatIsNotSupportedIsNamed) {
  const auto told = [](std::string_view schema) -> std::string {
    try {
      schema_grammar(json(schema));
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(told(R"({"type": "string", "pattern": "a*"})"),
            "the schema: #: the keyword \"pattern\" is not supported here");
  EXPECT_EQ(told(R"({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}})"),
            "the schema: #/properties/a: the keyword \"minimum\" is not supported here");
  EXPECT_EQ(told(R"({"$ref": "#/$defs/x"})"), "the schema: #: $ref: \"#/$defs/x\" leads nowhere");
  EXPECT_EQ(told(R"({"$ref": "http://x"})"),
            "the schema: #: $ref: expected one that begins with #, found \"http://x\"");
  EXPECT_EQ(told(R"({"$ref": "#"})"), "the schema: a $ref leads back to itself with nothing in between");
  EXPECT_EQ(told(R"({"anyOf": [{"type": "null"}, {"$ref": "#"}]})"),
            "the schema: a $ref leads back to itself with nothing in between");
  EXPECT_NE(told(R"({"type": "thing"})").find("found \"thing\""), std::string::npos);
  EXPECT_NE(told(R"({"type": "object", "required": ["a"]})").find("\"a\" is not among the properties"),
            std::string::npos);
  EXPECT_NE(told(R"({"type": "array", "minItems": 3, "maxItems": 2})").find("maxItems"), std::string::npos);
  EXPECT_NE(told(R"({"type": "string", "minLength": 100000})").find("minLength"), std::string::npos);
  EXPECT_NE(told(R"({"allOf": [{}, {}]})").find("allOf"), std::string::npos);
  EXPECT_NE(told("false").find("expected an object"), std::string::npos);
  EXPECT_NE(told("[]").find("expected an object"), std::string::npos);
}

// Walks by tokens that the mask allows always end in JSON of the schema; tokens that it forbids lead nowhere.
TEST(JsonSchema, RandomWalksByTheMaskEndInJsonOfTheSchema) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const auto trie = std::make_shared<TokenTrie>(tokenizer, 261);
  const SchemaGrammar grammar = schema_grammar(json(R"({"type": "object",
      "properties": {"name": {"type": "string", "maxLength": 8}, "in": {"enum": ["here", "there", "he"]},
                     "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}},
      "required": ["name", "in", "list"], "additionalProperties": false})"));
  Rng rng(1, 1);
  int tokens_of_pairs = 0;
  for (int round = 0; round < 60; ++round) {
    GrammarConstraint constraint(grammar.grammar, grammar.root, trie, {260});
    std::vector<std::int32_t> ids;
    while (!constraint.complete()) {
      const TokenMask mask = constraint.allowed();
      std::vector<std::int32_t> open;
      for (std::int32_t t = 0; t < 261; ++t) {
        if (((mask[static_cast<std::size_t>(t) / 64] >> (t % 64)) & 1u) != 0) open.push_back(t);
      }
      ASSERT_FALSE(open.empty());
      const std::int32_t token = open[rng.below(open.size())];
      ASSERT_NE(token, 260);  // an object ends by itself
      ASSERT_NE(token, 259);
      tokens_of_pairs += token >= 256 ? 1 : 0;
      constraint.accept(token);
      ids.push_back(token);
      ASSERT_LT(ids.size(), 500u);
    }
    const std::string text = tokenizer.decode(ids, true, true);
    const Json value = json(text);
    ASSERT_EQ(value.size(), 3u) << text;
    EXPECT_TRUE(value["name"].is_string());
    EXPECT_TRUE(value["in"] == "here" || value["in"] == "there" || value["in"] == "he");
    EXPECT_LE(value["list"].size(), 3u);
    for (const Json& n : value["list"]) EXPECT_TRUE(n.is_number_integer());
  }
  EXPECT_GT(tokens_of_pairs, 20);
}

TEST(JsonSchema, AMaskIsEveryTokenWhoseBytesGoOn) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const TokenTrie trie(tokenizer, 261);
  const SchemaGrammar grammar = schema_grammar(json(R"({"enum": ["the inn", "he", 17, {"a": "é"}]})"));
  GrammarMachine machine(grammar.grammar, grammar.root);
  std::vector<GrammarMachine::State> states{machine.start()};
  for (std::size_t i = 0; i < states.size() && states.size() < 200; ++i) {
    std::vector<std::uint64_t> mask(5, 0);
    trie.mark(machine, states[i], mask);
    for (std::int32_t t = 0; t < 261; ++t) {
      GrammarMachine::State state = states[i];
      for (const char c : trie.bytes(t)) {
        if (state != GrammarMachine::kDead) state = machine.step(state, static_cast<unsigned char>(c));
      }
      const bool goes_on = !trie.bytes(t).empty() && state != GrammarMachine::kDead;
      EXPECT_EQ(((mask[static_cast<std::size_t>(t) / 64] >> (t % 64)) & 1u) != 0, goes_on) << t;
      if (goes_on) states.push_back(state);
    }
  }
  EXPECT_GE(states.size(), 20u);
}

TEST(JsonSchema, ANumberAtTheRootMayEndOrGoOn) {
  const auto trie = std::make_shared<TokenTrie>(tiny_tokenizer(), 261);
  const SchemaGrammar grammar = schema_grammar(json(R"({"type": "integer"})"));
  GrammarConstraint constraint(grammar.grammar, grammar.root, trie, {260});
  const auto allows = [&](std::int32_t t) {
    const TokenMask mask = constraint.allowed();
    return ((mask[static_cast<std::size_t>(t) / 64] >> (t % 64)) & 1u) != 0;
  };
  const std::int32_t seven = '7' - 33;
  EXPECT_FALSE(allows(260));
  EXPECT_TRUE(allows(seven));
  constraint.accept(seven);
  EXPECT_TRUE(allows(260));
  EXPECT_TRUE(allows(seven));
  EXPECT_FALSE(constraint.complete());
}

TEST(JsonSchema, AVocabularyThatCannotGoOnIsAnError) {
  const auto trie = std::make_shared<TokenTrie>(tiny_tokenizer(), 3);  // ! " #
  SchemaGrammar grammar = schema_grammar(json(R"({"type": "integer"})"));
  GrammarConstraint constraint(grammar.grammar, grammar.root, trie, {});
  EXPECT_THROW(constraint.allowed(), Error);
}

}  // namespace
}  // namespace stem
