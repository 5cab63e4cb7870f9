// The events of several requests that make one response.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "serve/openai_response.h"

namespace stem {

/// Takes events in the order in which they come. Cancels what is under way when it dies.
class EventSource {
 public:
  explicit EventSource(std::vector<std::shared_ptr<Generation>> generations);
  ~EventSource();
  EventSource(EventSource&&) = default;
  EventSource(const EventSource&) = delete;
  EventSource& operator=(const EventSource&) = delete;

  bool finished() const { return open_ == 0; }
  std::int64_t answers() const { return answers_; }

  /// What comes next, within `patience`; its index counts answers of all requests. Throws the Error of an
  /// answer that failed, ApiError 503 or 504 for one that the server gave up.
  std::optional<AnswerPart> next(std::chrono::milliseconds patience);

  /// All answers, whole; nothing if `gone` turned true meanwhile.
  template <class Gone>
  std::optional<std::vector<AnswerPart>> wait(const Gone& gone) {
    std::vector<AnswerPart> whole(static_cast<std::size_t>(answers_));
    auto asked = std::chrono::steady_clock::now();
    while (!finished()) {
      const std::optional<AnswerPart> part = next(std::chrono::milliseconds(100));
      if (part) add(whole, *part);
      const auto now = std::chrono::steady_clock::now();
      if (now - asked < std::chrono::milliseconds(100)) continue;
      if (gone()) return std::nullopt;
      asked = now;
    }
    return whole;
  }

  /// Prompts, tokens made so far, the part of the prompts that was cached.
  TokenUsage usage() const;

 private:
  struct Source {
    std::shared_ptr<Generation> generation;
    std::int64_t first = 0, open = 0;  // answers: index of the first, how many go on
  };
  static void add(std::vector<AnswerPart>& whole, const AnswerPart& part);
  AnswerPart take(Source& source, GenerationEvent event);

  std::vector<Source> sources_;
  std::int64_t answers_ = 0, open_ = 0, made_ = 0;
  std::size_t turn_ = 0;
};

}  // namespace stem
