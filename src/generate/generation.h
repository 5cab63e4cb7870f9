// A request for text, and the conversation about it between the thread that asked and the engine's.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "generate/sampler.h"

namespace stem {

/// Which tokens may come next in one answer. Used by the engine's thread alone.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  /// The tokens allowed now, stop tokens among them where the text may end; never none. Valid until accept.
  /// Throws kMismatch when the vocabulary cannot go on.
  virtual TokenMask allowed() = 0;
  virtual void accept(std::int32_t token) = 0;
  /// Nothing may follow.
  virtual bool complete() const = 0;
};

enum class FinishReason { none, stop, length, cancelled, deadline, error };

/// What the engine is asked for.
struct GenerationRequest {
  std::vector<std::int32_t> prompt;  ///< at least one token
  SamplingOptions sampling;
  std::int64_t max_tokens = 16;  ///< an answer also ends where the context does; 0: the prompt is read alone
  std::int64_t choices = 1;      ///< answers to the prompt; answer i draws from stream sampling.stream + i
  std::int64_t logprobs = -1;  ///< how many of the likeliest tokens are told with each token; −1: no scores
  bool prompt_logprobs = false;   ///< the prompt's tokens, too
  std::vector<std::string> stop;  ///< strings that end the text, not part of it
  bool continues = true;          ///< as in Tokenizer::decode
  bool skip_special = true;       ///< special tokens are left out of the text
  std::function<std::unique_ptr<TokenConstraint>()> constraint;  ///< makes one for each answer
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

/// A token with its logarithmic probability under the model (before penalties and temperature) and the
/// likeliest ones in its place.
struct ScoredToken {
  std::int32_t token = 0;
  double log_probability = 0.0;  ///< NaN for the prompt's first token, and without `logprobs`
  std::vector<TokenScore> top;
};

/// What one step of the engine added to one answer.
struct GenerationEvent {
  std::int64_t choice = 0;
  std::vector<ScoredToken> prompt;  ///< with prompt_logprobs, in the first event of choice 0
  std::vector<ScoredToken> tokens;  ///< a stop token that ended the answer is the last; it has no text
  std::string text;
  FinishReason finish = FinishReason::none;
  ErrorCode code = ErrorCode::kUsage;  ///< with FinishReason::error
  std::string error;
};

/// A request under way. The engine puts events in, whoever asked takes them out.
class Generation {
 public:
  explicit Generation(GenerationRequest request)
      : request_(std::move(request)), submitted_(std::chrono::steady_clock::now()) {}

  /// The next event; nothing if none came within `timeout`.
  std::optional<GenerationEvent> next(std::chrono::milliseconds timeout);
  /// Ends all answers as soon as the step in hand is done.
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  const GenerationRequest& request() const { return request_; }
  std::chrono::steady_clock::time_point submitted() const { return submitted_; }
  /// Tokens of the prompt that were not computed but found in the cache (of all choices, the most).
  std::int64_t cached_tokens() const { return cached_tokens_; }

  void put(GenerationEvent event);  ///< the engine's side
  void note_cached(std::int64_t tokens);

 private:
  const GenerationRequest request_;
  const std::chrono::steady_clock::time_point submitted_;
  std::atomic<bool> cancelled_ = false;
  std::atomic<std::int64_t> cached_tokens_ = 0;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<GenerationEvent> events_;
};

}  // namespace stem
