#include "serve/event_source.h"

#include <algorithm>
#include <iterator>

#include "serve/api_error.h"

namespace stem {

EventSource::EventSource(std::vector<std::shared_ptr<Generation>> generations) {
  for (auto& generation : generations) {
    const std::int64_t choices = generation->request().choices;
    sources_.push_back({std::move(generation), answers_, choices});
    answers_ += choices;
  }
  open_ = answers_;
}

EventSource::~EventSource() {
  for (const Source& source : sources_) {
    if (source.open > 0) source.generation->cancel();
  }
}

std::optional<AnswerPart> EventSource::next(std::chrono::milliseconds patience) {
  using std::chrono::milliseconds;
  const auto deadline = std::chrono::steady_clock::now() + patience;
  do {
    Source* waiting = nullptr;
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      Source& source = sources_[(turn_ + i) % sources_.size()];
      if (source.open == 0) continue;
      if (auto event = source.generation->next(milliseconds(0))) {
        turn_ = (turn_ + i + 1) % sources_.size();
        return take(source, std::move(*event));
      }
      if (waiting == nullptr) waiting = &source;
    }
    if (waiting == nullptr) return std::nullopt;
    // One can be waited for; with several the others are looked at in between.
    const milliseconds pause = sources_.size() == 1 ? patience : milliseconds(5);
    if (auto event = waiting->generation->next(pause)) return take(*waiting, std::move(*event));
  } while (std::chrono::steady_clock::now() < deadline);
  return std::nullopt;
}

AnswerPart EventSource::take(Source& source, GenerationEvent event) {
  made_ += std::ssize(event.tokens);
  if (event.finish != FinishReason::none) {
    --source.open;
    --open_;
  }
  switch (event.finish) {
    case FinishReason::error:
      throw Error(event.code, event.error);
    case FinishReason::cancelled:
      throw ApiError(503, "the server is shutting down: the answer was given up");
    case FinishReason::deadline:
      throw ApiError(504, "the answer took longer than the server allows");
    default:
      break;
  }
  return {source.first + event.choice, std::move(event.prompt), std::move(event.tokens),
          std::move(event.text), event.finish};
}

void EventSource::add(std::vector<AnswerPart>& whole, const AnswerPart& part) {
  AnswerPart& answer = whole[static_cast<std::size_t>(part.index)];
  answer.index = part.index;
  answer.prompt.insert(answer.prompt.end(), part.prompt.begin(), part.prompt.end());
  answer.tokens.insert(answer.tokens.end(), part.tokens.begin(), part.tokens.end());
  answer.text += part.text;
  answer.finish = part.finish;
}

TokenUsage EventSource::usage() const {
  TokenUsage usage;
  for (const Source& source : sources_) {
    usage.prompt += std::ssize(source.generation->request().prompt);
    usage.cached += source.generation->cached_tokens();
  }
  usage.completion = made_;
  return usage;
}

}  // namespace stem
