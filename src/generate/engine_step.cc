// One step of the engine: which tokens go through the model together, and what their logits come to.
#include <algorithm>
#include <limits>
#include <new>

#include "generate/engine_sequence.h"
#include "generate/prompt_lookup.h"
#include "tables/record_error.h"

namespace stem {
namespace {

// Rows of logits [rows, V] in memory at a time.
constexpr std::int64_t kLogitRows = 32;
// Guesses are free as long as reading the weights takes longer than computing with them: up to about this
// many answers and guesses together. Beyond, wrong ones cost what running answers could use.
constexpr std::int64_t kRowsWithGuesses = 8;

// Guesses stand behind a sequence's tokens for the time of a pass.
class GuessesInPlace {
 public:
  explicit GuessesInPlace(std::vector<std::int32_t>& tokens, std::span<const std::int32_t> guesses)
      : tokens_(tokens), size_(tokens.size()) {
    tokens_.insert(tokens_.end(), guesses.begin(), guesses.end());
  }
  GuessesInPlace(GuessesInPlace&& other) noexcept : tokens_(other.tokens_), size_(other.size_) {}
  GuessesInPlace(const GuessesInPlace&) = delete;
  GuessesInPlace& operator=(const GuessesInPlace&) = delete;
  ~GuessesInPlace() { tokens_.resize(size_); }

 private:
  std::vector<std::int32_t>& tokens_;
  std::size_t size_;
};

}  // namespace

// Running answers first, each with its last token; then prompts in the order of admission.
std::vector<Engine::Part> Engine::plan_step() {
  std::vector<Part> parts;
  std::int64_t left = options_.step_tokens;
  for (const auto& s : running_) {
    if (s->reading()) continue;
    parts.push_back({s.get(), s->filled, s->pending(), {}});
    left -= s->pending();
  }
  std::int64_t guesses = std::min(left, kRowsWithGuesses - std::ssize(parts));
  for (Part& part : parts) {
    add_guesses(part, guesses);
    guesses -= std::ssize(part.guesses);
    left -= std::ssize(part.guesses);
  }
  for (const auto& s : running_) {
    if (!s->reading() || left <= 0) continue;
    parts.push_back({s.get(), s->filled, std::min(s->pending(), left), {}});
    left -= parts.back().count;
  }
  return parts;
}

void Engine::add_guesses(Part& part, std::int64_t room) {
  const Sequence& s = *part.sequence;
  // The last token of an answer needs no row of the cache, and its successor none at all.
  const std::int64_t most = std::min({options_.guesses, room, s.limit - s.made - 1});
  part.guesses = prompt_lookup(s.tokens, most);
}

void Engine::step() {
  std::vector<Part> parts = plan_step();
  if (parts.empty()) return;
  const Clock::time_point start = Clock::now();
  sampling_ = {};
  std::int64_t read = 0, made = 0;
  for (const Part& p : parts) (p.from < p.sequence->prompt_size ? read : made) += p.size();
  run_parts(parts);
  const Clock::time_point end = Clock::now();
  ++now_.steps;
  now_.step_seconds += std::chrono::duration<double>(end - start).count();
  now_.sample_seconds += std::chrono::duration<double>(sampling_).count();
  if (options_.trace == nullptr) return;
  options_.trace->span(read == 0   ? "decode"
                       : made == 0 ? "prefill"
                                   : "prefill and decode",
                       "engine", start, end,
                       fmt::format("\"prompt_tokens\":{},\"answer_tokens\":{}", read, made));
  // How long, not when: it happens in pieces.
  options_.trace->span("sampling", "sampling", end - sampling_, end);
}

// The parts that hold a position whose record is lost end; true if there are any.
bool Engine::fail_readers(std::vector<Part>& parts, const RecordError& error) {
  bool failed = false;
  std::int64_t row = 0;
  for (Part& p : parts) {
    const std::int64_t end = row + p.size();
    const auto first = std::lower_bound(error.positions().begin(), error.positions().end(), row);
    if (first != error.positions().end() && *first < end) {
      fail_sequence(*p.sequence, error.code(), error.what());
      failed = true;
    }
    row = end;
  }
  std::erase_if(parts, [](const Part& p) { return p.sequence->done(); });
  return failed;
}

// Where a pass fails, what is wrong with one sequence ends that one only: the others go through the model
// again, and where nobody says which one it was, each alone.
void Engine::run_parts(std::vector<Part>& parts) {
  ErrorCode code = ErrorCode::kIo;
  std::string message;
  try {
    return pass(parts);
  } catch (const RecordError& e) {
    if (fail_readers(parts, e)) {
      if (!parts.empty()) run_parts(parts);
      return;
    }
    code = e.code();
    message = e.what();
  } catch (const Error& e) {
    code = e.code();
    message = e.what();
  } catch (const std::bad_alloc&) {
    message = "not enough memory for this step";
  }
  if (parts.size() == 1) return fail_sequence(*parts.front().sequence, code, message);
  for (Part& part : parts) {
    std::vector<Part> alone;
    alone.push_back(std::move(part));
    if (!alone.front().sequence->done()) run_parts(alone);
    part = std::move(alone.front());
  }
}

void Engine::pass(std::vector<Part>& parts) {
  std::vector<std::int32_t> tokens, positions;
  std::vector<Segment> segments;
  std::vector<const std::int32_t*> contexts;
  std::vector<GuessesInPlace> in_place;
  in_place.reserve(parts.size());
  for (const Part& p : parts) {
    in_place.emplace_back(p.sequence->tokens, p.guesses);
    segments.push_back({std::ssize(tokens), p.size(), p.sequence->place.first, p.from + p.size()});
    contexts.push_back(p.sequence->tokens.data());
    const auto first = p.sequence->tokens.begin() + p.from;
    tokens.insert(tokens.end(), first, first + p.size());
    for (std::int64_t i = 0; i < p.size(); ++i) positions.push_back(static_cast<std::int32_t>(p.from + i));
  }
  const TokenBatch batch{tokens, positions, segments, contexts};
  Workspace::Scope scope(workspace_);
  Activations activations;
  {
    const RowPlan rows(model_.table, batch, overlay_);
    activations = allocate_activations(context_, model_, batch.size());
    forward_hidden(context_, model_, batch, rows, activations, &cache_);
  }
  in_place.clear();
  now_.computed_tokens += static_cast<std::uint64_t>(batch.size());
  read_logits(activations, parts);
  for (Part& p : parts) {
    Sequence& s = *p.sequence;
    ranges_.append(s.place.id, std::span(s.tokens).subspan(static_cast<std::size_t>(p.from),
                                                           static_cast<std::size_t>(s.filled - p.from)));
    if (!s.reading() && s.limit == 0) finish(s, FinishReason::length);
    if (!s.done())
      emit(s);
    else if (!s.event.tokens.empty())
      note_times(s);
  }
}

void Engine::read_logits(const Activations& activations, std::vector<Part>& parts) {
  std::vector<Wanted> wanted;
  std::int64_t row = 0;
  for (Part& p : parts) {
    Sequence& s = *p.sequence;
    const bool answers = p.ends_tokens() && s.limit > 0;
    for (std::int64_t i = 0; i < p.size(); ++i) {
      const std::int64_t at = p.from + i;
      const bool scores = s.wants_prompt_scores() && at + 1 < s.prompt_size;
      if (scores || (answers && i + 1 >= p.count)) wanted.push_back({&p, row + i, at});
    }
    row += p.size();
    s.filled = p.from + p.count;
  }
  const std::int64_t vocab = model_.config.vocab;
  std::vector<std::int64_t> rows;
  for (std::size_t first = 0; first < wanted.size(); first += kLogitRows) {
    const auto block =
        std::span(wanted).subspan(first, std::min<std::size_t>(kLogitRows, wanted.size() - first));
    rows.clear();
    for (const Wanted& w : block) rows.push_back(w.row);
    logits_.resize(block.size() * static_cast<std::size_t>(vocab));
    forward_logits(context_, model_, activations, rows, matrix(logits_.data(), std::ssize(block), vocab));
    const Clock::time_point start = Clock::now();
    for (std::size_t i = 0; i < block.size(); ++i) {
      take_logits(block[i], std::span(logits_).subspan(i * static_cast<std::size_t>(vocab),
                                                       static_cast<std::size_t>(vocab)));
    }
    sampling_ += Clock::now() - start;
  }
}

void Engine::take_logits(const Wanted& w, std::span<const float> logits) {
  Sequence& s = *w.part->sequence;
  if (s.done()) return;
  if (w.position + 1 < s.prompt_size) {
    const std::int32_t token = s.tokens[static_cast<std::size_t>(w.position) + 1];
    s.event.prompt.push_back(scored(s.request(), token, logits));
    return;
  }
  if (w.part->wrong_guess) return;
  try {
    choose_token(*w.part, w.position, logits);
  } catch (const Error& e) {
    fail_sequence(s, e.code(), e.what());
  }
}

ScoredToken Engine::scored(const GenerationRequest& request, std::int32_t token,
                           std::span<const float> logits) const {
  if (request.logprobs < 0) return {token, std::numeric_limits<double>::quiet_NaN(), {}};
  const double total = log_sum_exp(logits);
  return {token, static_cast<double>(logits[static_cast<std::size_t>(token)]) - total,
          top_scores(logits, total, request.logprobs)};
}

// Decides the token after `position`. A guess that proves right lets the next row's logits count.
void Engine::choose_token(Part& part, std::int64_t position, std::span<const float> logits) {
  Sequence& s = *part.sequence;
  const std::int64_t next = position + 1;
  s.filled = next;
  const TokenMask mask = s.constraint ? s.constraint->allowed() : TokenMask{};
  const std::int32_t token = s.sampler.choose(logits, static_cast<std::uint64_t>(next), mask);
  if (s.sampler.stops(token)) {
    s.event.tokens.push_back(scored(s.request(), token, logits));
    ++s.made;
    ++now_.made_tokens;
    return finish(s, FinishReason::stop);
  }
  model_.table.prefetch({&token, 1});
  s.event.tokens.push_back(scored(s.request(), token, logits));
  s.event.text += s.text.push(token);
  s.sampler.accept(token);
  if (s.constraint) s.constraint->accept(token);
  s.tokens.push_back(token);
  ++s.made;
  ++now_.made_tokens;
  const std::int64_t guess = next - (part.from + part.count);
  if (guess < std::ssize(part.guesses)) {
    ++now_.guessed_tokens;
    part.wrong_guess = part.guesses[static_cast<std::size_t>(guess)] != token;
    if (!part.wrong_guess) ++now_.right_guesses;
  }
  if (s.text.stopped() || (s.constraint && s.constraint->complete()))
    finish(s, FinishReason::stop);
  else if (s.made >= s.limit)
    finish(s, FinishReason::length);
}

// Hands out what the step added; the last event goes when the sequence is removed.
void Engine::emit(Sequence& s) {
  if (s.event.tokens.empty()) return;
  note_times(s);
  s.generation->put(std::exchange(s.event, GenerationEvent{}));
  s.event.choice = s.choice;
}

void Engine::note_times(Sequence& s) {
  const Clock::time_point now = Clock::now();
  const auto count = std::ssize(s.event.tokens);
  const double seconds = std::chrono::duration<double>(now - s.last).count();
  if (s.made == count) {
    now_.first_token.add(seconds);
  } else {
    for (std::int64_t i = 0; i < count; ++i) now_.token.add(seconds / static_cast<double>(count));
  }
  s.last = now;
}

}  // namespace stem
