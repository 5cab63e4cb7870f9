#include "serve/http_server.h"

#include <httplib.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <limits>
#include <mutex>
#include <thread>

#include "core/error.h"

namespace stem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kMaxHeadBytes = 64 << 10;
constexpr std::size_t kMaxPath = 1024;
constexpr int kRequestsPerConnection = 10'000;
constexpr std::size_t kOverflowThreads = 2, kOverflowQueue = 64;

Clock::time_point after(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// What the thread that serves a connection may do: all, only short answers, nothing but close it.
enum class Lane { normal, overflow, drop };
thread_local Lane t_lane = Lane::normal;

// A connection as the library reads and writes it, with deadlines for a request's head and body as a whole: a
// client that sends a byte now and then does not keep its thread.
class Connection : public httplib::Stream {
 public:
  Connection(int fd, const HttpOptions& options, const std::atomic<bool>& stopping)
      : fd_(fd), options_(options), stopping_(stopping) {}

  // Waits for the first byte of the next request; false when there will be none.
  bool wait_for_request() {
    const auto deadline = after(t_lane == Lane::normal ? options_.idle_seconds : 2.0);
    while (begin_ == end_) {
      if (stopping_ || Clock::now() >= deadline) return false;
      if (wait(POLLIN, std::chrono::milliseconds(100)) && !fill()) return false;
    }
    // Other requests wait for an overflow thread: be quick.
    deadline_ = after(t_lane == Lane::normal ? options_.header_seconds : 2.0);
    left_ = kMaxHeadBytes;
    in_body_ = too_large_ = false;
    return true;
  }
  void begin_body() {
    deadline_ = after(options_.body_seconds);
    left_ = options_.max_body_bytes + (options_.max_body_bytes >> 2) + kMaxHeadBytes;  // chunks have frames
    in_body_ = true;
  }
  void close_after_this() { must_close_ = true; }
  bool must_close() const { return must_close_ || too_large_; }
  bool too_large() const { return too_large_ && in_body_; }

  bool gone() const {
    if (begin_ != end_) return false;
    char byte = 0;
    const ssize_t n = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
  }

  bool is_readable() const override { return begin_ != end_ || wait(POLLIN, remaining()); }
  bool is_writable() const override { return !gone(); }

  ssize_t read(char* to, size_t size) override {
    if (left_ <= 0) {
      too_large_ = true;
      return -1;
    }
    while (begin_ == end_) {
      if (!wait(POLLIN, remaining()) || !fill()) return -1;
    }
    const std::size_t n = std::min({size, end_ - begin_, static_cast<std::size_t>(left_)});
    std::copy_n(buffer_ + begin_, n, to);
    begin_ += n;
    left_ -= static_cast<std::int64_t>(n);
    return static_cast<ssize_t>(n);
  }

  ssize_t write(const char* from, size_t size) override {
    std::size_t sent = 0;
    while (sent < size) {
      const ssize_t n = send(fd_, from + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) {
        sent += static_cast<std::size_t>(n);
        continue;
      }
      if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return -1;
      const auto patience =
          std::chrono::milliseconds(static_cast<std::int64_t>(options_.write_seconds * 1000));
      if (!wait(POLLOUT, patience)) return -1;
    }
    return static_cast<ssize_t>(size);
  }

  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    ip = "client";
    port = 0;
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    ip = options_.host;
    port = options_.port;
  }
  socket_t socket() const override { return fd_; }

  // Lets the client read the last response before the connection is reset for what it had still sent.
  void close_gently() {
    shutdown(fd_, SHUT_WR);
    const auto deadline = after(must_close() ? 1.0 : 0.05);
    while (Clock::now() < deadline && !stopping_) {
      begin_ = end_ = 0;
      if (!wait(POLLIN, std::chrono::milliseconds(50))) continue;
      if (!fill()) break;
    }
    ::close(fd_);
  }

 private:
  std::chrono::milliseconds remaining() const {
    return std::max(std::chrono::milliseconds(0),
                    std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()));
  }
  bool wait(short what, std::chrono::milliseconds patience) const {
    pollfd p{fd_, what, 0};
    return poll(&p, 1, static_cast<int>(patience.count())) > 0;
  }
  bool fill() {
    begin_ = end_ = 0;
    const ssize_t n = recv(fd_, buffer_, sizeof(buffer_), MSG_DONTWAIT);
    if (n > 0) end_ = static_cast<std::size_t>(n);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR));
  }

  int fd_;
  const HttpOptions& options_;
  const std::atomic<bool>& stopping_;
  char buffer_[16 << 10];
  std::size_t begin_ = 0, end_ = 0;
  Clock::time_point deadline_;
  std::int64_t left_ = 0;
  bool in_body_ = false, too_large_ = false, must_close_ = false;
};

thread_local Connection* t_connection = nullptr;

// Threads that grow with the connections up to a bound. Connections beyond it go to two threads that give
// short answers only; beyond their queue they are closed.
class BoundedThreads : public httplib::TaskQueue {
 public:
  BoundedThreads(std::size_t most, std::atomic<std::int64_t>& open) : most_(most), open_(open) {}

  void enqueue(std::function<void()> serve) override {
    std::unique_lock lock(mutex_);
    if (busy_ < most_) {
      ++busy_;
      push(normal_, std::move(serve));
      if (normal_.idle < normal_.jobs.size()) add_thread(normal_, Lane::normal);
      return;
    }
    if (overflow_.jobs.size() < kOverflowQueue) {
      push(overflow_, std::move(serve));
      if (overflow_.idle < overflow_.jobs.size() && overflow_.threads < kOverflowThreads)
        add_thread(overflow_, Lane::overflow);
      return;
    }
    lock.unlock();
    t_lane = Lane::drop;
    serve();
    t_lane = Lane::normal;
  }

  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      shut_ = true;
    }
    normal_.wake.notify_all();
    overflow_.wake.notify_all();
    for (std::thread& t : threads_) t.join();
  }

 private:
  struct Pool {
    std::deque<std::function<void()>> jobs;
    std::size_t idle = 0, threads = 0;
    std::condition_variable wake;
  };
  void push(Pool& pool, std::function<void()> serve) {
    pool.jobs.push_back(std::move(serve));
    pool.wake.notify_one();
  }
  void add_thread(Pool& pool, Lane lane) {
    ++pool.threads;
    threads_.emplace_back([this, &pool, lane] { work(pool, lane); });
  }
  void work(Pool& pool, Lane lane) {
    t_lane = lane;
    std::unique_lock lock(mutex_);
    while (true) {
      ++pool.idle;
      pool.wake.wait(lock, [&] { return shut_ || !pool.jobs.empty(); });
      --pool.idle;
      if (pool.jobs.empty()) return;
      const std::function<void()> serve = std::move(pool.jobs.front());
      pool.jobs.pop_front();
      lock.unlock();
      ++open_;
      serve();
      --open_;
      lock.lock();
      if (lane == Lane::normal) --busy_;
    }
  }

  std::size_t most_;
  std::atomic<std::int64_t>& open_;
  std::mutex mutex_;
  Pool normal_, overflow_;
  std::size_t busy_ = 0;  // connections of the normal lane, waiting ones too
  bool shut_ = false;
  std::vector<std::thread> threads_;
};

// The body's length that a head tells; nothing when that is no number. One beyond all bounds is the largest.
std::optional<std::int64_t> content_length(std::string_view text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (text.empty() || !std::all_of(text.begin(), text.end(), is_digit)) return std::nullopt;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? value : std::numeric_limits<std::int64_t>::max();
}

// What is wrong with the fields that say where a body ends; empty: nothing. A proxy that reads such a head
// otherwise than this server would pass one client's bytes on as another's request (RFC 9112, section 6.3).
std::string length_fault(const httplib::Request& request) {
  for (const auto& [name, value] : request.headers) {
    if (name.empty() || name.find_first_of(" \t") != std::string::npos)
      return fmt::format("a header's name: expected one without spaces, found \"{}\"", name);
  }
  const std::size_t lengths = request.get_header_value_count("Content-Length"),
                    codings = request.get_header_value_count("Transfer-Encoding");
  if (lengths > 1) return fmt::format("Content-Length: expected once, found {} times", lengths);
  if (codings > 1) return fmt::format("Transfer-Encoding: expected once, found {} times", codings);
  if (lengths + codings == 2) return "Content-Length: expected none beside Transfer-Encoding, found one";
  if (lengths == 1) {
    const std::string length = request.get_header_value("Content-Length");
    if (!content_length(length))
      return fmt::format("Content-Length: expected a number of bytes, found \"{}\"", length);
  }
  if (codings == 1) {
    const std::string coding = request.get_header_value("Transfer-Encoding");
    if (strcasecmp(coding.c_str(), "chunked") != 0)
      return fmt::format("Transfer-Encoding: expected chunked, found \"{}\"", coding);
  }
  return {};
}

void apply(const HttpResponse& from, httplib::Response& to) {
  to.status = from.status;
  for (const auto& [name, value] : from.headers) to.set_header(name, value);
  if (!from.stream) {
    to.set_content(from.body, from.type);
    return;
  }
  to.set_header("Cache-Control", "no-cache");
  to.set_chunked_content_provider(from.type, [stream = from.stream](size_t, httplib::DataSink& sink) {
    bool open = true;
    stream([&](std::string_view text) { return open = open && sink.write(text.data(), text.size()); });
    if (open) sink.done();
    return open;
  });
}

}  // namespace

class HttpServer::Impl : public httplib::Server {
 public:
  Impl(HttpOptions options, HttpHandlers handlers)
      : options_(std::move(options)), handlers_(std::move(handlers)) {
    new_task_queue = [this] {
      return new BoundedThreads(static_cast<std::size_t>(options_.max_connections), open_);
    };
    set_payload_max_length(static_cast<size_t>(options_.max_body_bytes));
    set_keep_alive_max_count(kRequestsPerConnection);
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      return begin(request, response);
    });
    const auto handle = [this](const httplib::Request& request, httplib::Response& response) {
      Connection* const connection = t_connection;
      apply(handlers_.handle({head_of(request), request.body, [connection] { return connection->gone(); }}),
            response);
    };
    Get(".*", handle);
    Post(".*", handle);
    set_error_handler([this](const httplib::Request&, httplib::Response& response) { fill_error(response); });
    // Small pieces of a stream must not wait for one another.
    set_tcp_nodelay(true);
    listen_on_address();
    thread_ = std::thread([this] {
      listen_after_bind();
      failed_ = true;
    });
    while (!is_running() && !failed_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  ~Impl() override { end(); }

  void end() {
    stopping_ = true;
    httplib::Server::stop();
    if (thread_.joinable()) thread_.join();
  }
  int bound_port() const { return port_; }
  std::int64_t open() const { return open_; }

 private:
  static HttpHead head_of(const httplib::Request& request) {
    return {request.method, request.path, request.get_header_value("Authorization")};
  }

  void listen_on_address() {
    // Without SO_REUSEPORT, which the library sets by default: two servers on one port would share clients.
    set_socket_options([](socket_t sock) {
      const int yes = 1;
      setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    port_ = options_.port;
    const bool bound = options_.port == 0 ? (port_ = bind_to_any_port(options_.host)) > 0
                                          : bind_to_port(options_.host, options_.port);
    if (!bound) {
      fail(ErrorCode::kIo, "{}:{}: could not be listened on: the address is in use, or not this machine's",
           options_.host, options_.port);
    }
    // The library queues 5 connections; a burst of clients is more.
    ::listen(svr_sock_, 512);
  }

  // Decides from the head alone.
  HandlerResponse begin(const httplib::Request& request, httplib::Response& response) {
    const auto refuse = [&](int status, std::string_view message) {
      response.status = status;
      response.set_content(handlers_.error_body(status, message), "application/json");
    };
    const bool sized = request.has_header("Content-Length"),
               chunked = request.has_header("Transfer-Encoding");
    bool refused = true;
    if (const std::string fault = length_fault(request); !fault.empty()) {
      refuse(400, fault);
    } else if (request.path.size() > kMaxPath) {
      refuse(414, "the path is too long");
    } else if (request.has_header("Content-Encoding") &&
               request.get_header_value("Content-Encoding") != "identity") {
      refuse(415, "Content-Encoding: expected none, found " + request.get_header_value("Content-Encoding"));
    } else if (request.is_multipart_form_data()) {
      refuse(415, "Content-Type: expected application/json, found multipart/form-data");
    } else if (auto answer = handlers_.admit(head_of(request))) {
      apply(*answer, response);
      refused = sized || chunked;
    } else if (sized &&
               content_length(request.get_header_value("Content-Length")) > options_.max_body_bytes) {
      refuse(413, too_large_text());
    } else if (request.method == "POST" && !sized && !chunked) {
      refuse(411, "Content-Length: expected the body's number of bytes, found none");
    } else if (t_lane != Lane::normal) {
      response.set_header("Retry-After", "1");
      refuse(503, "too many connections: try later");
    } else {
      refused = false;
      t_connection->begin_body();
      // The library reads a POST's body alone.
      if (request.method != "POST" && (sized || chunked)) {
        t_connection->close_after_this();
        response.set_header("Connection", "close");
      }
      return HandlerResponse::Unhandled;
    }
    if (refused || t_lane != Lane::normal) {
      // A body that nobody reads would be taken for the next request.
      t_connection->close_after_this();
      response.set_header("Connection", "close");
    }
    return HandlerResponse::Handled;
  }

  std::string too_large_text() const {
    return fmt::format("the request's body: expected at most {} bytes", options_.max_body_bytes);
  }

  void fill_error(httplib::Response& response) {
    if (!response.body.empty() || response.has_header("Content-Type")) return;
    if (t_connection->too_large()) response.status = 413;
    t_connection->close_after_this();
    const std::string message =
        response.status == 413 ? too_large_text() : std::string("the request is not HTTP as it should be");
    response.set_content(handlers_.error_body(response.status, message), "application/json");
  }

  bool process_and_close_socket(socket_t sock) override {
    if (t_lane == Lane::drop || stopping_) {
      ::close(sock);
      return true;
    }
    auto connection = std::make_unique<Connection>(sock, options_, stopping_);
    t_connection = connection.get();
    for (int count = 0; count < kRequestsPerConnection && connection->wait_for_request(); ++count) {
      bool closed = false;
      const bool last = count + 1 == kRequestsPerConnection || t_lane != Lane::normal;
      if (!process_request(*connection, last, closed, nullptr) || closed || connection->must_close() || last)
        break;
    }
    connection->close_gently();
    t_connection = nullptr;
    return true;
  }

  HttpOptions options_;
  HttpHandlers handlers_;
  std::atomic<bool> stopping_ = false, failed_ = false;
  std::atomic<std::int64_t> open_ = 0;
  int port_ = 0;
  std::thread thread_;
};

HttpServer::HttpServer(HttpOptions options, HttpHandlers handlers)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handlers))) {}
HttpServer::~HttpServer() = default;

int HttpServer::port() const {
  return impl_->bound_port();
}
std::int64_t HttpServer::connections() const {
  return impl_->open();
}
void HttpServer::stop() {
  impl_->end();
}

}  // namespace stem
