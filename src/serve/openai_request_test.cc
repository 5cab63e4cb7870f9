#include "serve/openai_request.h"

#include <gtest/gtest.h>

#include "serve/api_error.h"

namespace stem {
namespace {

const RequestLimits kLimits{1 << 20, 261, 8};

// What a client is told of a request: the error, and the field that it names.
ApiError refused(bool chat, std::string_view body) {
  try {
    if (chat)
      parse_chat(body, kLimits);
    else
      parse_completion(body, kLimits);
  } catch (const ApiError& e) {
    EXPECT_EQ(e.status, 400);
    return e;
  }
  return ApiError(0, "no error");
}
std::string told(bool chat, std::string_view body) {
  return refused(chat, body).what();
}
std::string param(bool chat, std::string_view body) {
  return refused(chat, body).param;
}

TEST(Requests, ErrorsNameTheirFieldToClients) {
  EXPECT_EQ(param(false, R"({"prompt": "a", "temperature": -1})"), "temperature");
  EXPECT_EQ(param(false, R"({"prompt": "a", "max_tokens": "many"})"), "max_tokens");
  EXPECT_EQ(param(false, R"({"prompt": "a", "stop": ""})"), "stop");
  EXPECT_EQ(param(false, R"({"prompt": "a", "logit_bias": []})"), "logit_bias");
  EXPECT_EQ(param(true, R"({"messages": "hi"})"), "messages");
  EXPECT_EQ(param(true, R"({"messages": [{"content": "x"}]})"), "messages");
  const std::string hi = R"("messages": [{"role": "user", "content": "hi"}])";
  EXPECT_EQ(param(true, "{" + hi + R"(, "response_format": "json"})"), "response_format");
  EXPECT_EQ(param(false, "{\"prompt\": "), "");
  EXPECT_EQ(param(false, "[]"), "");
  EXPECT_EQ(field_of("the prompt: expected a text, found none"), "prompt");
  EXPECT_EQ(field_of("the schema: properties: pattern: not supported"), "response_format");
  EXPECT_EQ(field_of("config.json: width: expected"), "");
}

TEST(CompletionRequests, EveryFieldIsRead) {
  const CompletionRequest r = parse_completion(
      R"({"model": "m", "prompt": ["a", [1, 2]], "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 5,
          "min_p": 0.1, "n": 3, "seed": 12, "stop": ["x", "yz"], "presence_penalty": 0.25, "frequency_penalty": -1,
          "repetition_penalty": 1.5, "logit_bias": {"7": -100, "8": 2.5}, "logprobs": 4, "echo": true, "stream": true,
          "stream_options": {"include_usage": true}, "user": "u", "ignore_eos": true, "stop_token_ids": [9]})",
      kLimits);
  EXPECT_EQ(r.model, "m");
  ASSERT_EQ(r.prompts.size(), 2u);
  EXPECT_EQ(std::get<std::string>(r.prompts[0]), "a");
  EXPECT_EQ(std::get<std::vector<std::int32_t>>(r.prompts[1]), (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(r.max_tokens, 7);
  const SamplingOptions& s = r.generation.sampling;
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.top_k, 5);
  EXPECT_EQ(s.min_p, 0.1);
  EXPECT_EQ(s.seed, 12u);
  EXPECT_EQ(s.presence_penalty, 0.25);
  EXPECT_EQ(s.frequency_penalty, -1.0);
  EXPECT_EQ(s.repetition_penalty, 1.5);
  EXPECT_EQ(s.stop_tokens, std::vector<std::int32_t>{9});
  ASSERT_EQ(s.logit_bias.size(), 2u);
  EXPECT_EQ(s.logit_bias[1], (std::pair<std::int32_t, float>{8, 2.5f}));
  EXPECT_EQ(r.generation.choices, 3);
  EXPECT_EQ(r.generation.stop, (std::vector<std::string>{"x", "yz"}));
  EXPECT_EQ(r.generation.logprobs, 4);
  EXPECT_TRUE(r.echo && r.generation.prompt_logprobs && r.stream && r.include_usage && r.ignore_eos);
}

TEST(CompletionRequests, WhatIsAbsentHasOpenAIsValue) {
  const CompletionRequest r =
      parse_completion(R"({"prompt": [1, 2, 3], "stop": null, "logprobs": null})", kLimits);
  EXPECT_EQ(r.max_tokens, 16);
  EXPECT_EQ(r.generation.sampling.temperature, 1.0);
  EXPECT_EQ(r.generation.choices, 1);
  EXPECT_EQ(r.generation.logprobs, -1);
  EXPECT_TRUE(r.generation.stop.empty());
  EXPECT_FALSE(r.stream || r.echo || r.schema);
  const CompletionRequest other = parse_completion(R"({"prompt": "a"})", kLimits);
  EXPECT_NE(r.generation.sampling.seed, other.generation.sampling.seed);  // drawn
}

TEST(CompletionRequests, FaultsAreNamed) {
  const auto has = [](std::string_view body, std::string_view what) {
    const std::string message = told(false, body);
    EXPECT_NE(message.find(what), std::string::npos) << body << " -> " << message;
  };
  has("", "byte 0");
  has("{\"prompt\": ", "byte 11");
  has("[]", "expected a JSON object");
  has("{\"prompt\": \"\xff\"}", "UTF-8");
  has("{}", "prompt: expected a text");
  has(R"({"prompt": 3})", "prompt: expected a text");
  has(R"({"prompt": []})", "prompt: expected a text");
  has(R"({"prompt": [1, "a"]})", "prompt: expected token ids");
  has(R"({"prompt": [1, 261]})", "prompt: expected token ids in [0, 261), found 261");
  has(R"({"prompt": [1.5]})", "prompt: expected token ids");
  has(R"({"prompt": ["a", 1]})", "prompt: expected texts or lists of token ids, found 1");
  has(R"({"prompt": ["a", "b", "c"], "n": 3})", "at most 8 answers (prompts times n), found 9");
  has(R"({"prompt": "a", "max_tokens": "many"})", "max_tokens: expected an integer");
  has(R"({"prompt": "a", "max_tokens": -1})", "max_tokens");
  has(R"({"prompt": "a", "max_tokens": 99999999999})", "max_tokens");
  has(R"({"prompt": "a", "max_tokens": 1e400})", "byte");
  has(R"({"prompt": "a", "temperature": "hot"})", "temperature: expected a number");
  has(R"({"prompt": "a", "temperature": -1})", "temperature");
  has(R"({"prompt": "a", "top_p": 1.5})", "top_p");
  has(R"({"prompt": "a", "n": 0})", "n: expected an integer in [1, 128]");
  has(R"({"prompt": "a", "stop": 5})", "stop: expected a text or a list of texts, found 5");
  has(R"({"prompt": "a", "stop": [""]})", "stop: expected texts of 1 to 1024 bytes, found an empty one");
  has(R"({"prompt": "a", "stop": ")" + std::string(1025, 'x') + "\"}", "found one of 1025 bytes");
  has(R"({"prompt": "a", "logit_bias": {"x": 1}})", "logit_bias: expected token ids");
  has(R"({"prompt": "a", "logit_bias": {"1": 1000}})", "logit_bias: expected numbers");
  has(R"({"prompt": "a", "logit_bias": []})", "logit_bias: expected an object");
  has(R"({"prompt": "a", "logprobs": 21})", "logprobs");
  has(R"({"prompt": "a", "suffix": "b"})", "suffix: this server does not support it");
  has(R"({"prompt": "a", "best_of": 5})", "best_of");
  has(R"({"prompt": "a", "stream_options": {"include_usage": true}})", "stream_options: expected stream");
  std::string many = R"({"prompt": "a", "stop": ["a")";
  for (int i = 0; i < 10000; ++i) many += ",\"x\"";
  has(many + "]}", "stop: expected at most 16 texts, found 10001");
  has(std::string(2 << 20, ' '), "bytes");
  has(R"({"prompt": )" + std::string(500, '[') + std::string(500, ']') + "}", "nested deeper");
}

TEST(ChatRequests, MessagesTakeTextsAndParts) {
  const ChatRequest r = parse_chat(
      R"({"messages": [{"role": "developer", "content": "s"}, {"role": "user",
          "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": null}],
          "max_tokens": 5, "max_completion_tokens": 6, "logprobs": true, "top_logprobs": 2, "tools": [],
          "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "null"}}}})",
      kLimits);
  ASSERT_EQ(r.turns.size(), 3u);
  EXPECT_EQ(r.turns[0].role, "system");
  EXPECT_EQ(r.turns[1].content, "ab");
  EXPECT_EQ(r.turns[2].content, "");
  EXPECT_EQ(r.max_tokens, 6);
  EXPECT_EQ(r.generation.logprobs, 2);
  ASSERT_TRUE(r.schema);
  EXPECT_EQ((*r.schema)["type"], "null");
  EXPECT_FALSE(parse_chat(R"({"messages": [{"role": "user", "content": "a"}]})", kLimits).max_tokens);
  const ChatRequest object = parse_chat(
      R"({"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}})",
      kLimits);
  EXPECT_TRUE(object.schema && object.schema->empty());
}

TEST(ChatRequests, FaultsAreNamed) {
  const auto has = [](std::string_view body, std::string_view what) {
    const std::string message = told(true, body);
    EXPECT_NE(message.find(what), std::string::npos) << body << " -> " << message;
  };
  has("{}", "messages");
  has(R"({"messages": []})", "messages: expected at least one message");
  has(R"({"messages": "hi"})", "messages: expected an array");
  has(R"({"messages": ["hi"]})", "messages: expected objects");
  has(R"({"messages": [{"role": "tool", "content": "x"}]})", "role: expected system, user or assistant");
  has(R"({"messages": [{"content": "x"}]})", "role");
  has(R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]})",
      "parts of type text");
  const std::string hi = R"("messages": [{"role": "user", "content": "hi"}])";
  has("{" + hi + R"(, "tools": [{"type": "function"}]})", "tools: this server does not support it");
  has("{" + hi + R"(, "top_logprobs": 3})", "top_logprobs: expected logprobs");
  has("{" + hi + R"(, "max_tokens": 0})", "max_tokens");
  has("{" + hi + R"(, "response_format": {"type": "xml"}})", "response_format");
  has("{" + hi + R"(, "response_format": "json"})", "response_format");
  has("{" + hi + R"(, "response_format": {"type": "json_schema"}})", "json_schema");
}

}  // namespace
}  // namespace stem
