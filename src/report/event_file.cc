#include "report/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";
constexpr std::size_t kWaitingBytes = 64 << 10;

constexpr std::array<std::uint32_t, 256> kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}();

void put_fixed(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xFFu));
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7Fu) | 0x80u));
  out.push_back(static_cast<char>(value));
}

// Protocol-buffer fields: the number and wire type, then the value.
enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_key(std::string& out, std::uint32_t field, WireType type) {
  put_varint(out, std::uint64_t{field} << 3 | type);
}

void put_integer(std::string& out, std::uint32_t field, std::int64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, static_cast<std::uint64_t>(value));
}

void put_double(std::string& out, std::uint32_t field, double value) {
  put_key(out, field, kFixed64);
  put_fixed(out, std::bit_cast<std::uint64_t>(value), 8);
}

void put_float(std::string& out, std::uint32_t field, float value) {
  put_key(out, field, kFixed32);
  put_fixed(out, std::bit_cast<std::uint32_t>(value), 4);
}

void put_bytes(std::string& out, std::uint32_t field, std::string_view value) {
  put_key(out, field, kBytes);
  put_varint(out, value.size());
  out += value;
}

// Event {wall_time = 1, step = 2} and one of file_version = 3, summary = 5, session_log = 7.
std::string event(double wall_time, std::int64_t step, std::uint32_t what, std::string_view content) {
  std::string out;
  put_double(out, 1, wall_time);
  if (step != 0) put_integer(out, 2, step);
  put_bytes(out, what, content);
  return out;
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::vector<std::filesystem::path> event_files(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.is_regular_file() && entry.path().filename().string().starts_with(kPrefix))
      found.push_back(entry.path());
  }
  return found;
}

// The time in a file's name, 0 if there is none.
std::int64_t second_of(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  std::int64_t second = 0;
  std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), second);
  return second < 9'999'999'999 ? second : 0;
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "host";
  std::string safe(name);
  for (char& c : safe) c = c == '/' ? '_' : c;
  return safe;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes) crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFFu] ^ (crc >> 8);
  return crc ^ 0xFFFFFFFFu;
}

std::string tf_record(std::string_view payload) {
  const auto masked = [](std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; };
  std::string out;
  put_fixed(out, payload.size(), 8);
  put_fixed(out, masked(out), 4);
  out += payload;
  put_fixed(out, masked(payload), 4);
  return out;
}

EventFile::EventFile(const std::filesystem::path& directory, std::int64_t first_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) fail(ErrorCode::kIo, "{}: {}", directory.string(), error.message());
  // TensorBoard reads a folder's files in the order of their names: time first, to the second.
  const double time = now();
  auto second = static_cast<std::int64_t>(time);
  for (const auto& earlier : event_files(directory)) {
    if (first_step <= 1)
      std::filesystem::remove(earlier, error);
    else
      second = std::max(second, second_of(earlier) + 1);
  }
  path_ = directory / fmt::format("{}{:010}.{}.{}", kPrefix, second, host_name(), getpid());
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) fail(ErrorCode::kIo, "{}: {}", path_.string(), std::strerror(errno));
  waiting_ = tf_record(event(time, 0, 3, "brain.Event:2"));
  // SessionLog {status = 1: START}. The first one of a folder only begins it; each later one drops events of
  // its own step and of those behind it.
  std::string started;
  put_integer(started, 1, 1);
  waiting_ += tf_record(event(time, std::max<std::int64_t>(first_step, 0), 7, started));
  flush();
}

EventFile::~EventFile() {
  try {
    flush();
  } catch (const Error&) {
    // told by the flush before, or nobody is left to tell
  }
  close(file_);
}

void EventFile::scalar(std::string_view tag, std::int64_t step, double value, double wall_time) {
  std::string point, summary;  // Summary {value = 1}, Value {tag = 1, simple_value = 2}
  put_bytes(point, 1, tag);
  put_float(point, 2, static_cast<float>(value));
  put_bytes(summary, 1, point);
  waiting_ += tf_record(event(wall_time < 0 ? now() : wall_time, step, 5, summary));
  if (waiting_.size() >= kWaitingBytes) flush();
}

void EventFile::flush() {
  while (!waiting_.empty()) {
    const ssize_t written = write(file_, waiting_.data(), waiting_.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(ErrorCode::kIo, "{}: {}", path_.string(), std::strerror(errno));
    waiting_.erase(0, static_cast<std::size_t>(written));
  }
}

}  // namespace stem
