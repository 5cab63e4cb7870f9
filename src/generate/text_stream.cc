#include "generate/text_stream.h"

#include <algorithm>

#include "core/error.h"

namespace stem {
namespace {

// Bytes at the end of `text` that `stop` begins with, without being all of it.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops, bool skip_special,
                       bool continues)
    : decoder_(tokenizer, skip_special, continues), stops_(std::move(stops)) {
  for (const std::string& stop : stops_) require(!stop.empty(), "an empty stop string");
}

std::string TextStream::push(std::int32_t id) {
  if (stopped_) return {};
  held_ += decoder_.push(id);
  return release(false);
}

std::string TextStream::finish() {
  if (stopped_) return {};
  held_ += decoder_.finish();
  return release(true);
}

std::string TextStream::release(bool last) {
  std::size_t end = std::string::npos, begin = std::string::npos;  // of the stop string found
  std::size_t kept = 0;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at != std::string::npos) {
      const std::size_t stop_end = at + stop.size();
      if (end == std::string::npos || stop_end < end || (stop_end == end && at < begin)) {
        end = stop_end;
        begin = at;
      }
    }
    kept = std::max(kept, overlap(held_, stop));
  }
  if (begin != std::string::npos) {
    stopped_ = true;
    std::string text = held_.substr(0, begin);
    held_.clear();
    return text;
  }
  if (last) kept = 0;
  std::string text = held_.substr(0, held_.size() - kept);
  held_.erase(0, text.size());
  return text;
}

}  // namespace stem
