#include "core/trace.h"

#include <cerrno>
#include <cstring>
#include <iterator>

#include "core/error.h"

namespace stem {

TraceWriter::TraceWriter(const std::filesystem::path& path, std::int64_t max_events)
    : file_(std::fopen(path.c_str(), "w")), left_(max_events) {
  if (file_ == nullptr)
    fail(ErrorCode::kIo, "{}: could not be made: {}", path.string(), std::strerror(errno));
  std::fputs("[\n", file_);
}

TraceWriter::~TraceWriter() {
  std::fputs("{\"name\":\"end\",\"ph\":\"i\",\"ts\":0,\"pid\":1,\"tid\":0,\"s\":\"g\"}]\n", file_);
  std::fclose(file_);
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
