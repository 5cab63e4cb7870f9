// A timeline of what the engine did when, in the trace format that chrome://tracing and Perfetto read.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <string>
#include <string_view>

namespace stem {

/// Writes events to a file as they come, at most `max_events`. May be used by several threads.
/// Source: "Trace Event Format", complete ("X") and counter ("C") events.
class TraceWriter {
 public:
  using Clock = std::chrono::steady_clock;

  /// Throws kIo when the file cannot be made, kUsage when there is one that is no timeline.
  explicit TraceWriter(const std::filesystem::path& path, std::int64_t max_events = 1'000'000);
  ~TraceWriter();  ///< ends the file; it can be read without this, too
  /// Ends the file, once; events that follow are left out. Throws kIo when not all of it could be written.
  void finish();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  /// Something that lasted from `start` to `end` on the line `track`. `arguments`: members of a JSON object,
  /// `"tokens": 3`, or empty.
  void span(std::string_view name, std::string_view track, Clock::time_point start, Clock::time_point end,
            std::string_view arguments = {});
  /// A value that changes in time.
  void counter(std::string_view name, double value);

 private:
  void write(const std::string& event);
  void end();
  double micros(Clock::time_point at) const;
  std::int64_t track_id(std::string_view track);

  std::mutex mutex_;
  std::string path_;
  std::FILE* file_ = nullptr;
  Clock::time_point start_ = Clock::now();
  std::int64_t left_ = 0;
  std::string tracks_[8];
  std::int64_t track_count_ = 0;
};

}  // namespace stem
