// Many sequences through one model at once: continuous batching over the one forward pass.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/trace.h"
#include "generate/engine_stats.h"
#include "generate/generation.h"
#include "generate/kv_ranges.h"
#include "model/forward.h"
#include "tables/overlay.h"
#include "text/tokenizer.h"

namespace stem {

class RecordError;

struct EngineOptions {
  std::int64_t context = 0;        ///< most tokens of a sequence; 0: the model's max_positions
  std::int64_t slots = 16;         ///< most sequences at once
  std::int64_t kv_bytes = 0;       ///< memory of the KV cache; 0: `slots` whole contexts, at most 1 GiB
  std::int64_t step_tokens = 256;  ///< tokens of one pass; those of running answers go first
  std::int64_t queue = 256;        ///< answers that may wait
  std::int64_t guesses = 0;        ///< tokens guessed ahead by prompt lookup; 0: none
  bool prefix_cache = true;        ///< keys and values of finished sequences are used again
  std::function<void()> on_thread_start;  ///< runs first on the engine's thread (threads of kernels)
  TraceWriter* trace = nullptr;           ///< must outlive the engine
};

/// Why a request was not taken.
class RequestRefused : public Error {
 public:
  enum class Reason { queue_full, draining };
  RequestRefused(Reason reason, const std::string& message)
      : Error(ErrorCode::kUsage, message), why(reason) {}
  Reason why;
};

/// Owns the KV cache, scratch memory and the thread on which all passes run; any thread may submit.
///
/// A step takes the next token of every running answer, and parts of prompts up to `step_tokens`, through the
/// model in one pass. Tokens and scores of an answer are the same bits whatever else runs, however prompts
/// are cut, and whatever was cached or guessed: kernels are batch invariant, draws depend on seed and
/// position alone.
///
/// Sequences whose records a table cannot read end with FinishReason::error; the pass is repeated for the
/// others.
class Engine {
 public:
  /// Model, tokenizer, overlay (may be null) must outlive the engine. Throws kUsage when the cache cannot
  /// hold one context.
  Engine(const Context& context, const Model& model, const Tokenizer& tokenizer, const Overlay* overlay,
         EngineOptions options);
  /// Cancels what runs.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Queues requests, all or none. Throws kUsage for a prompt that is empty, holds ids outside the vocabulary
  /// or is longer than the context allows, and for options out of range; RequestRefused when the queue is
  /// full or after drain.
  std::vector<std::shared_ptr<Generation>> submit(std::vector<GenerationRequest> requests);
  std::shared_ptr<Generation> submit(GenerationRequest request);

  /// Takes no new requests; `idle` once the others have ended.
  void drain();
  bool draining() const;
  /// Waits until nothing runs or waits; false if `timeout` came first.
  bool wait_until_idle(std::chrono::milliseconds timeout);
  /// Ends everything under way.
  void cancel_all();

  EngineStats stats() const;
  std::int64_t context() const { return options_.context; }
  std::int64_t vocab() const { return model_.config.vocab; }
  const EngineOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Sequence;
  struct Part;
  struct Wanted;

  void check(const GenerationRequest& request) const;
  void run();
  void drop_ended(bool all);
  void admit();
  bool begins_like_one_being_read(const Sequence& sequence) const;
  void start(Sequence& sequence, const KvRanges::Place& place);
  void step();
  std::vector<Part> plan_step();
  void add_guesses(Part& part, std::int64_t room);
  void run_parts(std::vector<Part>& parts);
  bool fail_readers(std::vector<Part>& parts, const RecordError& error);
  void pass(std::vector<Part>& parts);
  void read_logits(const Activations& activations, std::vector<Part>& parts);
  void take_logits(const Wanted& wanted, std::span<const float> logits);
  void choose_token(Part& part, std::int64_t position, std::span<const float> logits);
  ScoredToken scored(const GenerationRequest& request, std::int32_t token,
                     std::span<const float> logits) const;
  void emit(Sequence& sequence);
  void note_times(Sequence& sequence);
  void finish(Sequence& sequence, FinishReason reason);
  void fail_sequence(Sequence& sequence, ErrorCode code, const std::string& message);
  void remove_finished();
  void publish();

  Context context_;
  const Model& model_;
  Tokenizer tokenizer_;
  const Overlay* overlay_;
  EngineOptions options_;
  Workspace workspace_;
  KvCache cache_;
  KvRanges ranges_;

  // The engine's thread alone.
  std::list<std::unique_ptr<Sequence>> waiting_, running_, ended_;
  EngineStats now_;
  std::vector<float> logits_;
  Clock::duration sampling_{};

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, idle_;
  std::list<std::unique_ptr<Sequence>> inbox_;
  EngineStats published_;
  bool draining_ = false, stopping_ = false, cancel_all_ = false, is_idle_ = true;

  std::thread thread_;
};

}  // namespace stem
