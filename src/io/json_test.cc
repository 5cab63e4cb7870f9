#include "io/json.h"

#include <gtest/gtest.h>

#include <chrono>

#include "core/error.h"

namespace stem {
namespace {

std::string error_of(std::string_view text, const JsonLimits& limits = {}) {
  try {
    parse_json(text, "t.json", limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    return error.what();
  }
  return "accepted";
}

TEST(Json, RoundTripKeepsOrder) {
  const Json json = parse_json(R"({"z": 1, "a": [true, null, -2.5, "\u00e9\ud83d\ude00"]})", "t.json");
  EXPECT_EQ(json.dump(), R"({"z":1,"a":[true,null,-2.5,"é😀"]})");
  EXPECT_EQ(parse_json(dump_json(json), "t.json"), json);
}

TEST(Json, NestedContainersStayIntactWhileParentsGrow) {
  std::string text = "[";
  for (int i = 0; i < 100; ++i) text += fmt::format("{}{{\"k\":[{},{{\"x\":[]}}]}}", i ? "," : "", i);
  text += "]";
  const Json json = parse_json(text, "t.json");
  ASSERT_EQ(json.size(), 100u);
  EXPECT_EQ(json.dump(), text);
}

TEST(Json, RefusesWhatIsNotJson) {
  EXPECT_EQ(error_of("[1,]").substr(0, 16), "t.json: byte 3: ");
  for (const char* text : {"",    " ",         "{",       "[",     "nul",   "01",       "1.",
                           "[1}", "{\"a\" 1}", "{1: 2}",  "'a'",   "NaN",   "Infinity", "1e999",
                           "-",   "\"\x01\"",  "\"\\x\"", "/**/1", "{} {}", "1 2",      "{},"}) {
    EXPECT_NE(error_of(text), "accepted") << text;
  }
  EXPECT_NE(error_of(std::string_view("{}\0x", 4)), "accepted");  // the library stops at a NUL
}

TEST(Json, RefusesBadText) {
  EXPECT_NE(error_of("\"\xff\""), "accepted");
  EXPECT_NE(error_of("\"\xc0\x80\""), "accepted");      // overlong
  EXPECT_NE(error_of("\"\xed\xa0\x80\""), "accepted");  // an encoded surrogate
  EXPECT_NE(error_of(R"("\ud800")"), "accepted");
  EXPECT_NE(error_of(R"("\udc00")"), "accepted");
  EXPECT_NE(error_of(R"("\ud800\u0041")"), "accepted");
}

TEST(Json, RefusesDuplicateKeys) {
  EXPECT_NE(error_of(R"({"a":1,"a":2})"), "accepted");
  EXPECT_NE(error_of(R"({"a":1,"\u0061":2})"), "accepted");
  EXPECT_NE(error_of(R"([{"x":{"a":1,"b":2,"a":3}}])"), "accepted");
  EXPECT_EQ(error_of(R"([{"a":1},{"a":2,"b":{"a":3}}])"), "accepted");
}

TEST(Json, Limits) {
  const std::string deep(64, '['), ends(64, ']');
  EXPECT_EQ(error_of(deep + ends), "accepted");
  EXPECT_NE(error_of(fmt::format("[{}{}]", deep, ends)), "accepted");
  EXPECT_NE(error_of(std::string(10'000'000, '[')), "accepted");  // a depth bomb: no stack, no wait
  EXPECT_NE(error_of("[1,2,3]", {.max_elements = 3}), "accepted");
  EXPECT_EQ(error_of("[1,2]", {.max_elements = 3}), "accepted");
  EXPECT_NE(error_of("[1,2]", {.max_bytes = 4}), "accepted");
}

TEST(Json, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += fmt::format("{}\"{}\":0", i ? "," : "", i);
  text += "}";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse_json(text, "t.json").size(), 200'000u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

std::string message(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Json, FieldsNameFileFieldExpectedAndFound) {
  const Json json = parse_json(
      R"({"hidden_size":"abc","n":70000,"f":1.5,"big":18446744073709551615,"neg":-1,"s":"x","null":null,
          "list":[1,2],"t":true})",
      "config.json");
  const auto int_of = [&](const char* key) {
    return message([&] { get_int(json, key, "config.json", 1, 65536); });
  };
  EXPECT_EQ(int_of("hidden_size"),
            "config.json: hidden_size: expected an integer in [1, 65536], found \"abc\"");
  EXPECT_EQ(int_of("n"), "config.json: n: expected an integer in [1, 65536], found 70000");
  EXPECT_EQ(int_of("f"), "config.json: f: expected an integer in [1, 65536], found 1.5");
  EXPECT_EQ(int_of("big"), "config.json: big: expected an integer in [1, 65536], found 18446744073709551615");
  EXPECT_EQ(int_of("neg"), "config.json: neg: expected an integer in [1, 65536], found -1");
  EXPECT_EQ(int_of("hiden_size"),
            "config.json: hiden_size: expected an integer in [1, 65536], found nothing (did you mean "
            "\"hidden_size\"?)");
  EXPECT_EQ(get_int(json, "n", "c"), 70000);
  EXPECT_EQ(get_int_or(json, "null", "c", 0, 9, 5), 5);
  EXPECT_EQ(get_int_or(json, "absent", "c", 0, 9, 5), 5);
  EXPECT_NE(message([&] { get_int_or(json, "n", "c", 0, 9, 5); }), "no error");
  EXPECT_EQ(get_number(json, "f", "c"), 1.5);
  EXPECT_EQ(get_number(json, "n", "c"), 70000.0);
  EXPECT_NE(message([&] { get_number(json, "f", "c", 2, 3); }), "no error");
  EXPECT_EQ(get_string(json, "s", "c"), "x");
  EXPECT_NE(message([&] { get_string(json, "hidden_size", "c", 2); }), "no error");
  EXPECT_TRUE(get_bool(json, "t", "c"));
  EXPECT_NE(message([&] { get_bool(json, "n", "c"); }), "no error");
  EXPECT_EQ(get_ints(json, "list", "c", 0, 9), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(message([&] { get_ints(json, "list", "c", 0, 1); }),
            "c: list[1]: expected an integer in [0, 1], found 2");
  EXPECT_NE(message([&] { get_array(json, "list", "c", 1); }), "no error");
  EXPECT_NE(message([&] { get_object(json, "list", "c"); }), "no error");
  EXPECT_NE(message([&] { get_int(Json(3), "n", "c"); }), "no error");
}

TEST(Json, UnknownKeys) {
  const std::vector<std::string> known{"learning_rate", "steps"};
  EXPECT_EQ(message([&] { check_keys(Json{{"steps", 1}}, "run.toml", known); }), "no error");
  EXPECT_EQ(message([&] {
              check_keys(Json{{"learning_rat", 1}}, "run.toml", known);
            }),
            "run.toml: unknown key \"learning_rat\" (did you mean \"learning_rate\"?)");
}

TEST(Json, ShownIsShort) {
  EXPECT_LT(shown(Json(std::string(1'000'000, 'x'))).size(), 100u);
  EXPECT_EQ(shown(Json::array({1, 2})), "[1,2]");
  EXPECT_EQ(shown(Json::array({std::string(1000, 'x')})), "an array of 1 entries");
}

}  // namespace
}  // namespace stem
