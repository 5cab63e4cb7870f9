#include "serve/http_server.h"

#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>
#include <thread>

#include "core/error.h"
#include "serve/raw_client.h"

namespace stem {
namespace {

using namespace std::chrono_literals;

class Http : public ::testing::Test {
 protected:
  std::unique_ptr<HttpServer> serve(HttpOptions options = {}) {
    options.port = 0;
    HttpHandlers handlers;
    handlers.admit = [](const HttpHead& head) -> std::optional<HttpResponse> {
      HttpResponse response;
      if (head.path == "/health") {
        response.body = "fine";
        return response;
      }
      if (head.path != "/echo" && head.path != "/wait" && head.path != "/pieces") {
        response.status = 404;
        response.body = "{}";
        return response;
      }
      return std::nullopt;
    };
    handlers.handle = [this](const HttpRequest& request) {
      HttpResponse response;
      if (request.head.path == "/wait") {
        ++waiting_;
        while (!request.client_gone() && !released_) std::this_thread::sleep_for(2ms);
        if (!released_) ++gone_;
        --waiting_;
      }
      if (request.head.path == "/pieces") {
        response.stream = [this](const HttpWrite& write) {
          for (int i = 0; i < 100000; ++i) {
            if (!write("piece " + std::to_string(i) + "\n")) {
              ++gone_;
              return;
            }
            std::this_thread::sleep_for(1ms);
            if (i == 20 && released_) return;
          }
        };
      }
      response.body = request.body;
      return response;
    };
    handlers.error_body = [](int status, std::string_view message) {
      return "{\"status\":" + std::to_string(status) + ",\"message\":\"" + std::string(message) + "\"}";
    };
    return std::make_unique<HttpServer>(options, handlers);
  }
  static bool soon(const std::function<bool()>& is) {
    for (int i = 0; i < 3000 && !is(); ++i) std::this_thread::sleep_for(1ms);
    return is();
  }

  std::atomic<int> waiting_ = 0, gone_ = 0;
  std::atomic<bool> released_ = false;
};

TEST_F(Http, BodiesComeBackOnOneConnection) {
  const auto server = serve();
  httplib::Client client("127.0.0.1", server->port());
  client.set_keep_alive(true);
  for (int i = 0; i < 5; ++i) {
    const std::string body(static_cast<std::size_t>(i) * 10000, 'x');
    const auto answer = client.Post("/echo", body, "application/json");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 200);
    EXPECT_EQ(answer->body, body);
  }
  EXPECT_EQ(server->connections(), 1);
}

TEST_F(Http, TwoServersDoNotShareAPort) {
  const auto server = serve();
  HttpOptions same;
  same.port = server->port();
  try {
    HttpServer(same, {});
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("could not be listened on"), std::string::npos);
  }
}

TEST_F(Http, ARefusedBodyIsNotTakenForARequest) {
  const auto server = serve();
  RawClient client(server->port());
  client.send(raw_post("/nowhere", "GET /health HTTP/1.1\r\n\r\n"));
  const std::string all = client.read_until("fine", 1500ms);
  EXPECT_NE(all.find("404"), std::string::npos);
  EXPECT_EQ(all.find("fine"), std::string::npos);
  EXPECT_TRUE(client.closed());
}

TEST_F(Http, BodiesHaveABound) {
  HttpOptions options;
  options.max_body_bytes = 1000;
  const auto server = serve(options);
  httplib::Client client("127.0.0.1", server->port());
  EXPECT_EQ(client.Post("/echo", std::string(1000, 'x'), "application/json")->status, 200);
  const auto large = client.Post("/echo", std::string(1001, 'x'), "application/json");
  ASSERT_TRUE(large);
  EXPECT_EQ(large->status, 413);
  EXPECT_NE(large->body.find("at most 1000 bytes"), std::string::npos);
  // In chunks, of no length known before.
  RawClient chunks(server->port());
  chunks.send("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 300 && chunks.send("400\r\n" + std::string(1024, 'y') + "\r\n"); ++i) {
  }
  EXPECT_NE(chunks.read_until("413", 2000ms).find("413"), std::string::npos);
}

TEST_F(Http, WhatIsNoHttpIsTold) {
  const auto server = serve();
  const auto answer = [&](std::string_view bytes) {
    RawClient client(server->port());
    client.send(bytes);
    return client.read_until("}", 2000ms);
  };
  EXPECT_NE(answer("nonsense\r\n\r\n").find("400"), std::string::npos);
  EXPECT_NE(answer("GET /health HTTP/1.1\r\nno colon\r\n\r\n").size(), 0u);
  EXPECT_NE(
      answer("POST /echo HTTP/1.1\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc").find("415"),
      std::string::npos);
  EXPECT_NE(
      answer(
          "POST /echo HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 0\r\n\r\n")
          .find("415"),
      std::string::npos);
  EXPECT_NE(answer("GET /" + std::string(5000, 'a') + " HTTP/1.1\r\n\r\n").find("414"), std::string::npos);
  EXPECT_NE(answer("GET /" + std::string(50000, 'a') + " HTTP/1.1\r\n\r\n").find("HTTP/1.1 4"),
            std::string::npos);
  std::string many = "GET /health HTTP/1.1\r\n";
  for (int i = 0; i < 20000; ++i) many += "X-" + std::to_string(i) + ": y\r\n";
  EXPECT_EQ(answer(many + "\r\n").find("200 OK"), std::string::npos);
  httplib::Client client("127.0.0.1", server->port());
  EXPECT_EQ(client.Get("/health")->status, 200);  // and it lives
}

TEST_F(Http, ABodyWhoseLengthIsNotClearIsRefusedAtOnce) {
  const auto server = serve();
  const auto told = [&](std::string_view fields, std::string_view message) {
    RawClient client(server->port());
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\n" + std::string(fields) + "\r\n\r\nabcde");
    const std::string all = client.read_until("}", 2000ms);
    EXPECT_TRUE(all.starts_with("HTTP/1.1 4")) << fields << " -> " << all;
    EXPECT_NE(all.find(message), std::string::npos) << fields << " -> " << all;
    EXPECT_EQ(client.read_until("HTTP", 2000ms), "");  // what follows is no request
    EXPECT_TRUE(client.closed()) << fields;
  };
  told("Content-Length: 5\r\nContent-Length: 5", "Content-Length: expected once, found 2 times");
  told("Content-Length: 500\r\nContent-Length: 5", "\"status\":400");
  told("Content-Length: 5, 5", "Content-Length: expected a number of bytes, found \"5, 5\"");
  for (const char* length : {"-1", "+5", "abc", "5x", "0x5", "5 5"})
    told("Content-Length: " + std::string(length), "\"status\":400");
  told("Content-Length : 5", "expected one without spaces");
  told("Content-Length: 5\r\nTransfer-Encoding: chunked", "expected none beside Transfer-Encoding");
  told("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: expected once");
  told("Transfer-Encoding: gzip, chunked", "expected chunked, found \"gzip, chunked\"");
  told("Content-Length:", "\"status\":411");
  told("Accept: */*", "Content-Length: expected the body's number of bytes, found none");
  told("Content-Length: 9000000", "\"status\":413");
  told("Content-Length: 99999999999999999999999", "at most 8388608 bytes");
}

TEST_F(Http, ALargeBodysSenderReadsWhyItIsRefused) {
  const auto server = serve();
  httplib::Client client("127.0.0.1", server->port());
  const auto answer = client.Post("/echo", std::string(32 << 20, 'x'), "application/json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 413);
}

TEST_F(Http, TheBodyOfAGetIsNoRequest) {
  const auto server = serve();
  RawClient client(server->port());
  client.send("GET /echo HTTP/1.1\r\nContent-Length: 24\r\n\r\nGET /health HTTP/1.1\r\n\r\n");
  const std::string all = client.read_until("fine", 2000ms);
  EXPECT_NE(all.find("200 OK"), std::string::npos);
  EXPECT_EQ(all.find("fine"), std::string::npos);
  EXPECT_TRUE(client.closed());
}

TEST_F(Http, ASlowHeadLosesItsConnectionAndHealthAnswersMeanwhile) {
  HttpOptions options;
  options.header_seconds = 0.6;
  options.max_connections = 3;
  const auto server = serve(options);
  std::vector<std::unique_ptr<RawClient>> slow;
  for (int i = 0; i < 3; ++i) {
    slow.push_back(std::make_unique<RawClient>(server->port()));
    slow.back()->send("GET /echo HTT");
  }
  ASSERT_TRUE(soon([&] { return server->connections() == 3; }));
  httplib::Client client("127.0.0.1", server->port());
  EXPECT_EQ(client.Get("/health")->status, 200);
  const auto refused = client.Get("/echo");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 503);
  EXPECT_EQ(refused->get_header_value("Retry-After"), "1");
  // A byte now and then does not buy time.
  const auto start = std::chrono::steady_clock::now();
  while (server->connections() > 0 && std::chrono::steady_clock::now() - start < 4s) {
    for (const auto& s : slow) s->send("x");
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  EXPECT_EQ(client.Post("/echo", "ok", "text/plain")->body, "ok");
}

TEST_F(Http, ASlowBodyAndAnIdleConnectionEnd) {
  HttpOptions options;
  options.body_seconds = options.idle_seconds = 0.3;
  const auto server = serve(options);
  RawClient body(server->port()), idle(server->port());
  body.send("POST /echo HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc");
  const std::string told = body.read_until("}", 3000ms);
  EXPECT_NE(told.find("400"), std::string::npos) << told;
  EXPECT_EQ(idle.read_until("x", 3000ms), "");
  EXPECT_TRUE(idle.closed());
}

TEST_F(Http, AClientThatHangsUpIsNoticed) {
  const auto server = serve();
  {
    RawClient client(server->port());
    client.send(raw_post("/wait", "{}"));
    ASSERT_TRUE(soon([&] { return waiting_ == 1; }));
  }
  EXPECT_TRUE(soon([&] { return gone_ == 1; }));
  {
    RawClient client(server->port());
    client.send(raw_post("/pieces", "{}"));
    EXPECT_NE(client.read_until("piece 3", 2000ms).find("piece 3"), std::string::npos);
  }
  EXPECT_TRUE(soon([&] { return gone_ == 2; }));
}

TEST_F(Http, StopFinishesWhatRunsAndClosesWhatIdles) {
  auto server = serve();
  RawClient idle(server->port()), running(server->port()), streaming(server->port());
  running.send(raw_post("/wait", "the body"));
  streaming.send(raw_post("/pieces", "{}"));
  ASSERT_TRUE(soon([&] { return waiting_ == 1; }));
  ASSERT_NE(streaming.read_until("piece 1", 2000ms), "");
  const int port = server->port();
  std::thread stopping([&] { server->stop(); });
  EXPECT_TRUE(soon([&] { return !RawClient(port).connected(); }));
  released_ = true;
  EXPECT_NE(running.read_until("the body", 2000ms).find("200 OK"), std::string::npos);
  EXPECT_NE(streaming.read_until("0\r\n\r\n", 2000ms).find("piece 20"), std::string::npos);
  stopping.join();
  EXPECT_EQ(gone_, 0);
}

}  // namespace
}  // namespace stem
