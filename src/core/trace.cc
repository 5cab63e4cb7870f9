#include "core/trace.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::string_view kStart = "[\n";
// How every event begins, so every timeline that is not empty.
constexpr std::string_view kFirst = "[\n{\"name\":\"";

// What is there and is no timeline is worth more than one. Of devices and pipes nothing is lost, and reading
// them may wait for ever.
void check_replaceable(const std::filesystem::path& path) {
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) return;
  if (std::filesystem::file_size(path, unknown) == 0) return;
  std::string start(kFirst.size(), '\0');
  std::ifstream(path, std::ios::binary).read(start.data(), std::ssize(start));
  if (start != kFirst) {
    fail(ErrorCode::kUsage, "{}: expected a new file or an earlier timeline, found a file of another kind",
         path.string());
  }
}

}  // namespace

TraceWriter::TraceWriter(const std::filesystem::path& path, std::int64_t max_events)
    : path_(path.string()), left_(max_events) {
  check_replaceable(path);
  file_ = std::fopen(path.c_str(), "w");
  if (file_ == nullptr) fail(ErrorCode::kIo, "{}: could not be made: {}", path_, std::strerror(errno));
  std::fputs(kStart.data(), file_);
}

TraceWriter::~TraceWriter() {
  if (file_ == nullptr) return;
  end();
  std::fclose(file_);
}

void TraceWriter::end() {
  std::fputs("{\"name\":\"end\",\"ph\":\"i\",\"ts\":0,\"pid\":1,\"tid\":0,\"s\":\"g\"}]\n", file_);
}

void TraceWriter::finish() {
  const std::lock_guard lock(mutex_);
  left_ = 0;
  end();
  const bool written = std::ferror(file_) == 0;
  const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
  if (!written || !closed) fail(ErrorCode::kIo, "{}: could not be written in full", path_);
}

double TraceWriter::micros(Clock::time_point at) const {
  return std::chrono::duration<double, std::micro>(at - start_).count();
}

void TraceWriter::write(const std::string& event) {
  if (left_ <= 0) return;
  --left_;
  std::fputs(event.c_str(), file_);
}

// Names a track the first time; called under the mutex.
std::int64_t TraceWriter::track_id(std::string_view track) {
  for (std::int64_t i = 0; i < track_count_; ++i) {
    if (tracks_[i] == track) return i;
  }
  if (track_count_ == std::ssize(tracks_)) return track_count_ - 1;
  tracks_[track_count_] = std::string(track);
  write(fmt::format(
      "{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":{},\"args\":{{\"name\":\"{}\"}}}},\n",
      track_count_, track));
  return track_count_++;
}

void TraceWriter::span(std::string_view name, std::string_view track, Clock::time_point start,
                       Clock::time_point end, std::string_view arguments) {
  const std::lock_guard lock(mutex_);
  const std::int64_t tid = track_id(track);
  write(fmt::format(
      "{{\"name\":\"{}\",\"ph\":\"X\",\"ts\":{:.1f},\"dur\":{:.1f},\"pid\":1,\"tid\":{},\"args\":{{{}}}}},\n",
      name, micros(start), micros(end) - micros(start), tid, arguments));
}

void TraceWriter::counter(std::string_view name, double value) {
  const std::lock_guard lock(mutex_);
  write(fmt::format("{{\"name\":\"{}\",\"ph\":\"C\",\"ts\":{:.1f},\"pid\":1,\"args\":{{\"value\":{}}}}},\n",
                    name, micros(Clock::now()), value));
}

}  // namespace stem
