#include "generate/engine.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "generate/engine_sequence.h"

namespace stem {
namespace {

constexpr std::int64_t kMaxChoices = 128;
// A prompt waits for one that is being read if it can then take this many more tokens from it.
constexpr std::int64_t kWorthWaiting = 32;

EngineOptions completed(EngineOptions o, const Model& model) {
  const std::int64_t most = model.config.max_positions;
  if (o.context < 0 || o.context > most) {
    fail(ErrorCode::kUsage, "the context: expected at most {} tokens (max_position_embeddings), found {}",
         most, o.context);
  }
  if (o.context == 0) o.context = most;
  o.step_tokens = std::max(o.step_tokens, o.slots + kWorthWaiting);  // prompts go on beside full slots
  require(o.slots > 0 && o.step_tokens > 0 && o.queue >= 0 && o.guesses >= 0, "engine options");
  return o;
}

std::int64_t cache_rows(const EngineOptions& o, const Model& model) {
  constexpr std::int64_t kDefaultBytes = std::int64_t{1} << 30;
  const std::int64_t row = KvCache::row_bytes(model), all = o.slots * o.context;
  if (o.kv_bytes == 0) return std::max(o.context, std::min(all, kDefaultBytes / row));
  if (o.kv_bytes / row < o.context) {
    fail(ErrorCode::kUsage,
         "memory of the KV cache: expected at least {} bytes, for one context of {} tokens, found {}",
         o.context * row, o.context, o.kv_bytes);
  }
  return std::min(all, o.kv_bytes / row);
}

SamplingOptions of_choice(SamplingOptions options, std::int64_t choice) {
  options.stream += static_cast<std::uint64_t>(choice);
  return options;
}

}  // namespace

Engine::Sequence::Sequence(std::shared_ptr<Generation> of, std::int64_t index, const Tokenizer& tokenizer,
                           std::int64_t most_tokens)
    : generation(std::move(of)),
      choice(index),
      tokens(request().prompt),
      prompt_size(std::ssize(tokens)),
      limit(std::min(request().max_tokens, most_tokens - prompt_size)),
      sampler(of_choice(request().sampling, index)),
      text(tokenizer, request().stop, request().skip_special, request().continues),
      constraint(request().constraint ? request().constraint() : nullptr),
      last(generation->submitted()) {
  sampler.see_prompt(tokens);
  event.choice = choice;
}

Engine::Engine(const Context& context, const Model& model, const Tokenizer& tokenizer, const Overlay* overlay,
               EngineOptions options)
    : context_{context.kernels, &workspace_, true},
      model_(model),
      tokenizer_(tokenizer),
      overlay_(overlay),
      options_(completed(std::move(options), model)),
      cache_(model, cache_rows(options_, model)),
      ranges_(cache_.capacity(), options_.prefix_cache) {
  now_.kv_rows = published_.kv_rows = cache_.capacity();
  if (RecordStore* const store = model_.table.store().get()) store->trace(options_.trace);
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = cancel_all_ = draining_ = true;
  }
  wake_.notify_all();
  thread_.join();
  if (RecordStore* const store = model_.table.store().get()) store->trace(nullptr);
}

void Engine::check(const GenerationRequest& r) const {
  if (r.prompt.empty()) fail(ErrorCode::kUsage, "the prompt: expected a text, found none");
  for (const std::int32_t token : r.prompt) {
    if (token < 0 || token >= model_.config.vocab) {
      fail(ErrorCode::kUsage, "the prompt: expected token ids in [0, {}), found {}", model_.config.vocab,
           token);
    }
  }
  if (r.max_tokens < 0) fail(ErrorCode::kUsage, "max_tokens: expected 0 or more, found {}", r.max_tokens);
  const std::int64_t room = options_.context - (r.max_tokens > 0 ? 1 : 0);
  if (std::ssize(r.prompt) > room) {
    fail(ErrorCode::kUsage, "the prompt: expected at most {} tokens, found {}: the context holds {}", room,
         r.prompt.size(), options_.context);
  }
  if (r.choices < 1 || r.choices > kMaxChoices)
    fail(ErrorCode::kUsage, "n: expected 1 to {} answers, found {}", kMaxChoices, r.choices);
  for (const std::string& stop : r.stop) {
    if (stop.empty()) fail(ErrorCode::kUsage, "stop: expected texts, found an empty one");
  }
  check_sampling(r.sampling, model_.config.vocab);
}

std::vector<std::shared_ptr<Generation>> Engine::submit(std::vector<GenerationRequest> requests) {
  std::vector<std::shared_ptr<Generation>> made;
  std::list<std::unique_ptr<Sequence>> sequences;
  for (GenerationRequest& request : requests) {
    check(request);
    const auto& generation = made.emplace_back(std::make_shared<Generation>(std::move(request)));
    for (std::int64_t i = 0; i < generation->request().choices; ++i)
      sequences.push_back(std::make_unique<Sequence>(generation, i, tokenizer_, options_.context));
  }
  {
    const std::lock_guard lock(mutex_);
    if (draining_) {
      throw RequestRefused(RequestRefused::Reason::draining,
                           "the server is shutting down and takes no new requests");
    }
    // Free slots do not wait, so a queue of none still lets requests run.
    const std::int64_t ahead = published_.waiting + published_.running + std::ssize(inbox_);
    if (ahead + std::ssize(sequences) > options_.slots + options_.queue) {
      throw RequestRefused(RequestRefused::Reason::queue_full,
                           fmt::format("{} answers are running or waiting and no more than {} may: try later",
                                       ahead, options_.slots + options_.queue));
    }
    is_idle_ = false;
    inbox_.splice(inbox_.end(), sequences);
  }
  wake_.notify_all();
  return made;
}

std::shared_ptr<Generation> Engine::submit(GenerationRequest request) {
  std::vector<GenerationRequest> one;
  one.push_back(std::move(request));
  return submit(std::move(one)).front();
}

void Engine::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

bool Engine::draining() const {
  const std::lock_guard lock(mutex_);
  return draining_;
}

bool Engine::wait_until_idle(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, timeout, [&] { return is_idle_; });
}

void Engine::cancel_all() {
  {
    const std::lock_guard lock(mutex_);
    cancel_all_ = true;
  }
  wake_.notify_all();
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = published_;
  stats.waiting += std::ssize(inbox_);
  return stats;
}

void Engine::run() {
  if (options_.on_thread_start) options_.on_thread_start();
  bool stopping = false;
  while (!stopping) {
    bool cancel = false;
    {
      std::unique_lock lock(mutex_);
      const auto busy = [&] { return !inbox_.empty() || !running_.empty() || !waiting_.empty(); };
      if (!busy()) {
        is_idle_ = true;
        cancel_all_ = stopping_;
        idle_.notify_all();
      }
      wake_.wait(lock, [&] { return stopping_ || busy(); });
      waiting_.splice(waiting_.end(), inbox_);
      published_.waiting = std::ssize(waiting_);
      cancel = std::exchange(cancel_all_, false);
      stopping = stopping_;
    }
    drop_ended(cancel);
    if (!stopping) {
      admit();
      step();
    }
    remove_finished();
    publish();
    // Last, so that whoever learns of an end finds it counted.
    for (const auto& s : ended_) s->generation->put(std::move(s->event));
    ended_.clear();
  }
}

// Ends what nobody waits for any more.
void Engine::drop_ended(bool all) {
  const Clock::time_point now = Clock::now();
  for (auto* list : {&waiting_, &running_}) {
    for (const auto& s : *list) {
      if (all || s->generation->cancelled())
        finish(*s, FinishReason::cancelled);
      else if (s->request().deadline && now > *s->request().deadline)
        finish(*s, FinishReason::deadline);
    }
  }
  remove_finished();
}

bool Engine::begins_like_one_being_read(const Sequence& s) const {
  if (!options_.prefix_cache || s.wants_prompt_scores()) return false;
  for (const auto& other : running_) {
    if (!other->reading() || other->done()) continue;
    const auto whole = std::span(s.tokens).first(s.tokens.size() - 1);
    const auto end =
        std::mismatch(whole.begin(), whole.end(), other->tokens.begin(), other->tokens.end()).first;
    const std::int64_t common = end - whole.begin();
    if (common > other->filled && common - ranges_.longest_match(s.tokens) >= kWorthWaiting) return true;
  }
  return false;
}

void Engine::admit() {
  for (auto it = waiting_.begin(); it != waiting_.end() && std::ssize(running_) < options_.slots;) {
    Sequence& s = **it;
    if (begins_like_one_being_read(s)) {
      ++it;
      continue;
    }
    const auto place = ranges_.place(s.tokens, s.rows(), !s.wants_prompt_scores());
    if (!place) break;  // in order: those behind wait, too, or a long one would wait for ever
    start(s, *place);
    const auto next = std::next(it);
    running_.splice(running_.end(), waiting_, it);
    it = next;
  }
}

void Engine::start(Sequence& s, const KvRanges::Place& place) {
  s.place = place;
  s.placed = true;
  s.filled = place.cached;
  if (place.copy_from >= 0) cache_.copy_rows(place.copy_from, place.first, place.cached);
  model_.table.prefetch(std::span(s.tokens).subspan(static_cast<std::size_t>(s.filled)));
  s.generation->note_cached(place.cached);
  if (s.wants_prompt_scores())
    s.event.prompt.push_back({s.tokens.front(), std::numeric_limits<double>::quiet_NaN(), {}});
  const Clock::time_point now = Clock::now();
  now_.prompt_tokens += static_cast<std::uint64_t>(s.prompt_size);
  now_.cached_tokens += static_cast<std::uint64_t>(place.cached);
  now_.queued.add(std::chrono::duration<double>(now - s.generation->submitted()).count());
  if (options_.trace != nullptr) {
    options_.trace->span("queued", "queue", s.generation->submitted(), now,
                         fmt::format("\"prompt\":{},\"cached\":{}", s.prompt_size, place.cached));
  }
}

void Engine::finish(Sequence& s, FinishReason reason) {
  if (s.done()) return;
  s.event.finish = reason;
  s.event.text += s.text.finish();
}

void Engine::fail_sequence(Sequence& s, ErrorCode code, const std::string& message) {
  if (s.done()) return;
  finish(s, FinishReason::error);
  s.event.code = code;
  s.event.error = message;
}

void Engine::remove_finished() {
  const Clock::time_point now = Clock::now();
  for (auto* list : {&waiting_, &running_}) {
    for (auto it = list->begin(); it != list->end();) {
      Sequence& s = **it;
      if (!s.done()) {
        ++it;
        continue;
      }
      switch (s.event.finish) {
        case FinishReason::stop:
          ++now_.stopped;
          break;
        case FinishReason::length:
          ++now_.length;
          break;
        case FinishReason::deadline:
          ++now_.late;
          break;
        case FinishReason::error:
          ++now_.failed;
          break;
        default:
          ++now_.cancelled;
      }
      now_.whole.add(std::chrono::duration<double>(now - s.generation->submitted()).count());
      if (s.placed) ranges_.release(s.place.id);
      const auto next = std::next(it);
      ended_.splice(ended_.end(), *list, it);
      it = next;
    }
  }
}

void Engine::publish() {
  now_.running = std::ssize(running_);
  now_.waiting = std::ssize(waiting_);
  now_.kv_busy_rows = ranges_.busy_rows();
  if (model_.table.store()) now_.table = model_.table.store()->stats();
  const std::lock_guard lock(mutex_);
  published_ = now_;
}

}  // namespace stem
