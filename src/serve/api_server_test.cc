#include "serve/api_server.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "generate/session.h"
#include "generate/tiny_model.h"
#include "kernels/cpu/cpu.h"
#include "serve/raw_client.h"

namespace stem {
namespace {

using namespace std::chrono_literals;

class Api : public ::testing::Test {
 protected:
  Api() : model(tiny_config(2048), {}) { init_weights(model, 5); }
  ~Api() override {
    server.reset();
    engine.reset();
  }

  void start(EngineOptions engine_options = {}, ApiOptions options = {}, bool with_chat = true) {
    tokenizer = tiny_tokenizer(with_chat);
    engine_options.on_thread_start = [] { set_cpu_threads(1); };
    engine = std::make_unique<Engine>(context, model, tokenizer, nullptr, engine_options);
    options.http.port = 0;
    server = std::make_unique<ApiServer>(*engine, tokenizer, ServedModel{"tiny", 17}, options);
    client = std::make_unique<httplib::Client>("127.0.0.1", server->port());
    client->set_read_timeout(30, 0);
  }
  httplib::Result post(const char* path, const std::string& body) {
    return client->Post(path, body, "application/json");
  }
  Json posted(const char* path, const Json& body) {
    const auto answer = post(path, body.dump());
    EXPECT_TRUE(answer);
    if (!answer) return {};
    EXPECT_EQ(answer->status, 200) << answer->body;
    return parse_json(answer->body, path);
  }
  // The events of a stream; the last is checked to be [DONE].
  std::vector<Json> streamed(const char* path, Json body) {
    body["stream"] = true;
    const auto answer = post(path, body.dump());
    EXPECT_TRUE(answer);
    std::vector<Json> events;
    std::istringstream lines(answer->body);
    std::string last;
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("data: ")) continue;
      last = line.substr(6);
      if (last != "[DONE]") events.push_back(parse_json(last, path));
    }
    EXPECT_EQ(last, "[DONE]");
    return events;
  }
  static bool soon(const std::function<bool()>& is) {
    for (int i = 0; i < 5000 && !is(); ++i) std::this_thread::sleep_for(1ms);
    return is();
  }

  Tokenizer tokenizer = tiny_tokenizer();
  Workspace workspace;
  Context context{&cpu_kernels(), &workspace, true};
  Model model;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<ApiServer> server;
  std::unique_ptr<httplib::Client> client;
};

TEST_F(Api, ACompletionIsASessionsText) {
  start();
  const Json answer = posted(
      "/v1/completions", {{"model", "tiny"}, {"prompt", "in the"}, {"max_tokens", 12}, {"temperature", 0}});
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);  // "in", " t", "he": ChatML has no start token
  const Json& choice = answer["choices"][0];
  Session session(context, model);
  GenerateOptions options;
  options.max_tokens = 12;
  options.stop_tokens = {260};
  const auto made = generate(session, tokenizer.encode("in the"), options);
  EXPECT_EQ(choice["text"], tokenizer.decode(made, true, true));
  EXPECT_EQ(choice["finish_reason"], made.size() == 12 ? "length" : "stop");
}

TEST_F(Api, EchoTellsThePromptsScoresTheFirstOneNull) {
  start();
  const std::vector<std::int32_t> ids{1, 50, 3, 200};
  const Json answer = posted("/v1/completions", {{"prompt", Json::array({ids, Json::array({7, 8})})},
                                                 {"max_tokens", 1},
                                                 {"temperature", 0},
                                                 {"echo", true},
                                                 {"logprobs", 1}});
  ASSERT_EQ(answer["choices"].size(), 2u);
  const Json& scores = answer["choices"][0]["logprobs"];
  ASSERT_EQ(scores["token_logprobs"].size(), 5u);
  EXPECT_TRUE(scores["token_logprobs"][0].is_null());
  EXPECT_TRUE(scores["top_logprobs"][0].is_null());
  EXPECT_EQ(scores["text_offset"][0], 0);
  Session session(context, model);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    const auto logits = session.feed({&ids[i], 1});
    const double want =
        static_cast<double>(logits[static_cast<std::size_t>(ids[i + 1])]) - log_sum_exp(logits);
    EXPECT_EQ(scores["token_logprobs"][i + 1].get<double>(), want);
    double most = -1e9;
    for (const auto& [name, value] : scores["top_logprobs"][i + 1].items())
      most = std::max(most, value.get<double>());
    EXPECT_EQ(most, top_scores(logits, log_sum_exp(logits), 1)[0].log_probability);
  }
  const std::string text = answer["choices"][0]["text"];
  EXPECT_TRUE(text.starts_with(tokenizer.decode(ids)));
  // No answer at all, the prompt alone.
  const Json none =
      posted("/v1/completions", {{"prompt", ids}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}});
  EXPECT_EQ(none["choices"][0]["logprobs"]["tokens"].size(), 4u);
  EXPECT_EQ(none["usage"]["completion_tokens"], 0);
}

TEST_F(Api, AStreamJoinsToTheWholeAnswer) {
  start();
  for (const Json& body : {Json{{"prompt", Json::array({"in", "he"})}, {"n", 2}},
                           Json{{"prompt", "the"}, {"echo", true}, {"logprobs", 2}},
                           Json{{"prompt", "a"}, {"stop", Json::array({"e", "\n"})}}}) {
    Json asked = body;
    asked["max_tokens"] = 30;
    asked["seed"] = 7;
    asked["temperature"] = 1.2;
    const Json whole = posted("/v1/completions", asked);
    asked["stream_options"] = {{"include_usage", true}};
    const std::vector<Json> events = streamed("/v1/completions", asked);
    std::vector<std::string> texts(whole["choices"].size()), ends(texts.size());
    std::vector<std::size_t> scores(texts.size(), 0);
    for (const Json& event : events) {
      for (const Json& c : event["choices"]) {
        const auto i = c["index"].get<std::size_t>();
        texts[i] += c["text"].get<std::string>();
        if (!c["finish_reason"].is_null()) ends[i] = c["finish_reason"];
        if (!c["logprobs"].is_null()) scores[i] += c["logprobs"]["tokens"].size();
      }
    }
    for (std::size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(whole["choices"][i]["text"], texts[i]);
      EXPECT_EQ(whole["choices"][i]["finish_reason"], ends[i]);
      if (body.contains("logprobs")) {
        EXPECT_EQ(whole["choices"][i]["logprobs"]["tokens"].size(), scores[i]);
      }
    }
    EXPECT_EQ(events.back()["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    EXPECT_TRUE(events.back()["choices"].empty());
  }
}

TEST_F(Api, AChatGoesThroughTheTemplate) {
  start();
  const Json turns = Json::array({{{"role", "user"}, {"content", "in the"}}});
  Json body{{"model", "tiny"}, {"messages", turns}, {"max_tokens", 20},
            {"seed", 3},       {"logprobs", true},  {"top_logprobs", 2}};
  const Json answer = posted("/v1/chat/completions", body);
  EXPECT_EQ(answer["object"], "chat.completion");
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["logprobs"]["content"].size(), answer["usage"]["completion_tokens"].get<std::size_t>());
  EXPECT_EQ(choice["logprobs"]["content"][0]["top_logprobs"].size(), 2u);
  const auto prompt = tokenizer.encode("<|im_start|>user\nin the<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], prompt.size());
  const std::vector<Json> events = streamed("/v1/chat/completions", body);
  std::string text;
  for (const Json& event : events) {
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    for (const Json& c : event["choices"]) {
      if (c["delta"].contains("content")) text += c["delta"]["content"].get<std::string>();
    }
  }
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], text);
  const Json tokens = posted("/tokenize", {{"messages", turns}});
  EXPECT_EQ(tokens["tokens"], Json(prompt));
}

TEST_F(Api, AnswersFollowASchema) {
  start();
  const Json schema = parse_json(R"({"type": "object", "properties": {"in": {"enum": ["he", "the inn"]},
      "n": {"type": "integer"}, "s": {"type": "string", "maxLength": 5}}, "required": ["in", "n", "s"],
      "additionalProperties": false})",
                                 "schema");
  Json body{
      {"messages", Json::array({{{"role", "user"}, {"content", "x"}}})},
      {"temperature", 1.5},
      {"n", 3},
      {"max_tokens", 400},
      {"response_format", {{"type", "json_schema"}, {"json_schema", {{"name", "x"}, {"schema", schema}}}}}};
  const Json answer = posted("/v1/chat/completions", body);
  for (const Json& choice : answer["choices"]) {
    EXPECT_EQ(choice["finish_reason"], "stop");
    const Json value = parse_json(choice["message"]["content"].get<std::string>(), "answer");
    EXPECT_TRUE(value["in"] == "he" || value["in"] == "the inn");
    EXPECT_TRUE(value["n"].is_number_integer() && value["s"].is_string());
  }
  body["response_format"]["json_schema"]["schema"] = {{"type", "string"}, {"pattern", "a*"}};
  const auto refused = post("/v1/chat/completions", body.dump());
  EXPECT_EQ(refused->status, 400);
  EXPECT_NE(refused->body.find("pattern"), std::string::npos);
}

TEST_F(Api, FaultsHaveOpenAIsForm) {
  start();
  const auto expect = [&](const char* path, const std::string& body, int status, std::string_view what,
                          const Json& param = {}) {
    const auto answer = post(path, body);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, status) << body.substr(0, 80) << answer->body;
    const Json error = parse_json(answer->body, "answer")["error"];
    EXPECT_NE(error["message"].get<std::string>().find(what), std::string::npos) << answer->body;
    EXPECT_TRUE(error["type"].is_string() && error.contains("code"));
    if (error["param"] != param) ADD_FAILURE() << answer->body;
  };
  expect("/v1/completions", "{", 400, "byte");
  expect("/v1/completions", "{\"prompt\": \"\xc3(\"}", 400, "UTF-8");
  expect("/v1/completions", R"({"prompt": "a", "temperature": []})", 400, "temperature", "temperature");
  expect("/v1/completions", R"({"prompt": "a", "max_tokens": 2048})", 400,
         "max_tokens: expected at most 2047", "max_tokens");
  expect("/v1/completions", R"({"prompt": "a", "max_tokens": 1000000})", 400, "max_tokens", "max_tokens");
  expect("/v1/completions", Json{{"prompt", std::string(3000, 'x')}}.dump(), 400,
         "at most 2047 tokens, found 3000", "prompt");
  expect("/v1/completions", R"({"prompt": ""})", 400, "expected a text, found none", "prompt");
  expect("/v1/completions", R"({"prompt": "a", "model": "other"})", 404, "the model \"other\" does not exist",
         "model");
  expect("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "<|im_end|>"}]})", 400,
         "special token");
  expect("/v1/chat/completions",
         Json{{"messages", Json::array({{{"role", "user"}, {"content", std::string(3000, 'x')}}})}}.dump(),
         400, "at most 2047 tokens", "messages");
  expect("/detokenize", R"({"tokens": [999]})", 400, "tokens", "tokens");
  expect("/tokenize", R"({"text": "a"})", 400, "prompt", "prompt");
  expect("/nothing", "{}", 404, "nothing at \"/nothing\"");
  expect("/health", "{}", 405, "takes GET");
  expect("/v1/completions", std::string((8 << 20) + 1, 'x'), 413, "at most 8388608 bytes");
  EXPECT_EQ(client->Get("/v1/completions")->status, 405);
  EXPECT_EQ(client->Get("/v1/completions")->get_header_value("Allow"), "POST");
  EXPECT_EQ(client->Get("/v1/models/other")->status, 404);
  EXPECT_EQ(client->Delete("/v1/models")->status, 405);
  EXPECT_EQ(engine->stats().steps, 0u);
}

TEST_F(Api, WithoutAChatTemplateCompletionsRemain) {
  start({}, {}, false);
  const auto chat = post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "a"}]})");
  EXPECT_EQ(chat->status, 400);
  EXPECT_NE(chat->body.find("chat_template"), std::string::npos);
  EXPECT_EQ(post("/v1/completions", R"({"prompt": "a", "max_tokens": 2})")->status, 200);
}

TEST_F(Api, TheSmallEndpoints) {
  start();
  const Json models = parse_json(client->Get("/v1/models")->body, "models");
  EXPECT_EQ(models["data"][0]["id"], "tiny");
  EXPECT_EQ(models["data"][0]["created"], 17);
  EXPECT_EQ(parse_json(client->Get("/v1/models/tiny")->body, "model")["max_model_len"], 2048);
  const Json tokens = posted("/tokenize", {{"prompt", "in the é<|im_end|>"}, {"return_token_strs", true}});
  EXPECT_EQ(tokens["count"], 7);
  EXPECT_EQ(tokens["tokens"][6], 260);
  EXPECT_EQ(posted("/detokenize", {{"tokens", tokens["tokens"]}})["prompt"], "in the é<|im_end|>");
  EXPECT_EQ(parse_json(client->Get("/tokenizer_info")->body, "info")["eos_token"], "<|im_end|>");
  EXPECT_EQ(client->Get("/health")->status, 200);
  EXPECT_EQ(client->Head("/health")->status, 200);
  const auto page = client->Get("/");
  EXPECT_NE(page->body.find("</html>"), std::string::npos);
  EXPECT_EQ(page->body.find("http://"), std::string::npos);  // nothing from elsewhere
  EXPECT_EQ(page->body.find("https://"), std::string::npos);
}

TEST_F(Api, MetricsCount) {
  start();
  posted("/v1/completions", {{"prompt", "in the"}, {"max_tokens", 5}, {"ignore_eos", true}});
  post("/v1/completions", "{");
  const std::string text = client->Get("/metrics")->body;
  for (const char* line : {"stem:generated_tokens_total{model_name=\"tiny\"} 5\n",
                           "vllm:prompt_tokens_total{model_name=\"tiny\"} 3\n",
                           "vllm:num_requests_running{model_name=\"tiny\"} 0\n",
                           "vllm:num_requests_waiting{model_name=\"tiny\"} 0\n",
                           "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0\n",
                           "vllm:gpu_cache_usage_perc{model_name=\"tiny\"} 0\n",
                           "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 1\n",
                           "vllm:time_per_output_token_seconds_bucket{le=\"+Inf\",model_name=\"tiny\"} 4\n",
                           "vllm:request_success_total{finished_reason=\"length\",model_name=\"tiny\"} 1\n",
                           "stem:http_responses_total{class=\"4xx\",model_name=\"tiny\"} 1\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
}

TEST(Metrics, TablesOnDiskAreCounted) {
  EngineStats stats;
  stats.table.emplace();
  stats.table->distinct = 100;
  stats.table->hits = 75;
  stats.table->stall_us = 500'000;
  const std::string text = metrics_text({"a \"b\"", [&] { return stats; }, {}}, {});
  EXPECT_NE(text.find("stem:table_row_hit_ratio{model_name=\"a \\\"b\\\"\"} 0.75\n"), std::string::npos)
      << text;
  EXPECT_NE(text.find("stem:table_stall_seconds_total{model_name=\"a \\\"b\\\"\"} 0.5\n"), std::string::npos);
}

TEST_F(Api, KeysAreAskedFor) {
  const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "keys";
  std::ofstream(path) << "# two keys\nalpha\n  beta  # of Ann\n\n";
  ApiOptions options;
  options.keys = read_api_keys(path.string());
  EXPECT_EQ(options.keys, (std::vector<std::string>{"alpha", "beta"}));
  start({}, options);
  const auto without = client->Get("/v1/models");
  EXPECT_EQ(without->status, 401);
  EXPECT_EQ(parse_json(without->body, "e")["error"]["code"], "invalid_api_key");
  EXPECT_EQ(post("/v1/completions", R"({"prompt": "a"})")->status, 401);
  EXPECT_EQ(post("/tokenize", R"({"prompt": "a"})")->status, 401);
  client->set_bearer_token_auth("alph");
  EXPECT_EQ(client->Get("/v1/models")->status, 401);
  client->set_bearer_token_auth("beta");
  EXPECT_EQ(client->Get("/v1/models")->status, 200);
  httplib::Client open("127.0.0.1", server->port());
  EXPECT_EQ(open.Get("/health")->status, 200);
  EXPECT_EQ(open.Get("/metrics")->status, 200);
  EXPECT_EQ(open.Get("/")->status, 200);
  std::filesystem::remove(path);
}

TEST_F(Api, AFullQueueSays429) {
  EngineOptions options;
  options.slots = 1;
  options.queue = 0;
  start(options);
  RawClient busy(server->port());
  busy.send(raw_post("/v1/completions",
                     R"({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "stream": true})"));
  ASSERT_NE(busy.read_until("data:", 5000ms), "");
  const auto refused = post("/v1/completions", R"({"prompt": "a", "max_tokens": 2})");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_EQ(refused->get_header_value("Retry-After"), "1");
  EXPECT_EQ(parse_json(refused->body, "e")["error"]["type"], "rate_limit_error");
  // Its client goes away: the next one is served.
  busy.hang_up();
  EXPECT_TRUE(soon([&] { return engine->stats().running == 0; }));
  EXPECT_EQ(post("/v1/completions", R"({"prompt": "a", "max_tokens": 2})")->status, 200);
}

TEST_F(Api, ClientsThatHangUpCancelTheirRequests) {
  start();
  const char* const kLong = R"({"prompt": "a", "max_tokens": 2000, "ignore_eos": true, "n": 2})";
  {
    RawClient whole(server->port());
    whole.send(raw_post("/v1/completions", kLong));
    ASSERT_TRUE(soon([&] { return engine->stats().running == 2; }));
  }
  EXPECT_TRUE(soon([&] { return engine->stats().cancelled == 2; }));
  {
    RawClient stream(server->port());
    stream.send(
        raw_post("/v1/chat/completions",
                 R"({"messages": [{"role": "user", "content": "a"}], "stream": true, "ignore_eos": true})"));
    ASSERT_NE(stream.read_until("data:", 5000ms), "");
  }
  EXPECT_TRUE(soon([&] { return engine->stats().cancelled == 3; }));
  EXPECT_EQ(engine->stats().kv_busy_rows, 0);
}

TEST_F(Api, DrainFinishesStreamsAndRefusesTheRest) {
  start();
  RawClient stream(server->port()), second(server->port());
  stream.send(raw_post("/v1/completions",
                       R"({"prompt": "a", "max_tokens": 1500, "ignore_eos": true, "stream": true})"));
  ASSERT_NE(stream.read_until("data:", 5000ms), "");
  std::thread drain([&] { server->drain(); });
  EXPECT_TRUE(soon([&] { return engine->draining(); }));
  // New connections are told, too, as long as an answer is being made.
  httplib::Client balancer("127.0.0.1", server->port());
  const auto health = balancer.Get("/health");
  ASSERT_TRUE(health);
  EXPECT_EQ(health->status, 503);
  EXPECT_EQ(health->body, R"({"status":"draining"})");
  EXPECT_EQ(balancer.Post("/v1/completions", R"({"prompt": "a"})", "application/json")->status, 503);
  const std::string rest = stream.read_until("[DONE]", 20000ms);
  EXPECT_NE(rest.find("\"finish_reason\":\"length\""), std::string::npos);
  EXPECT_NE(rest.find("[DONE]"), std::string::npos);
  drain.join();
  EXPECT_FALSE(RawClient(server->port()).connected());
  EXPECT_EQ(engine->stats().length, 1u);
  EXPECT_EQ(engine->stats().cancelled, 0u);
}

TEST_F(Api, ARequestDuringTheDrainGets503) {
  start();
  httplib::Client kept("127.0.0.1", server->port());
  engine->drain();
  const auto answer = kept.Post("/v1/completions", R"({"prompt": "a"})", "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 503);
  EXPECT_EQ(kept.Get("/health")->status, 503);
}

TEST_F(Api, AnAnswerThatTakesTooLongEnds) {
  ApiOptions options;
  options.service.answer_seconds = 0.05;
  start({}, options);
  const auto answer = post("/v1/completions", R"({"prompt": "a", "max_tokens": 2000, "ignore_eos": true})");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 504);
}

}  // namespace
}  // namespace stem
