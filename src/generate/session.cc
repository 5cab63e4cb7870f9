#include "generate/session.h"

#include <algorithm>
#include <numeric>

namespace stem {

Session::Session(const Context& context, const Model& model, const Overlay* overlay, std::int64_t capacity)
    : context_(context),
      model_(model),
      overlay_(overlay),
      cache_(model,
             capacity > 0 ? std::min(capacity, model.config.max_positions) : model.config.max_positions),
      logits_(static_cast<std::size_t>(model.config.vocab)) {
  context_.inference = true;
}

std::span<const float> Session::feed(std::span<const std::int32_t> tokens) {
  require(!tokens.empty(), "a session is fed at least one token");
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= model_.config.vocab) {
      fail(ErrorCode::kUsage, "token id: expected a number in [0, {}), found {}", model_.config.vocab, token);
    }
  }
  const auto past = static_cast<std::int64_t>(tokens_.size()), n = static_cast<std::int64_t>(tokens.size());
  if (past + n > cache_.capacity()) {
    fail(ErrorCode::kUsage, "the context holds {} tokens (max_position_embeddings), the text needs {}",
         cache_.capacity(), past + n);
  }
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  std::vector<std::int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(past));
  const Segment segment{0, n, 0, past + n};
  const std::int32_t* whole = tokens_.data();
  const TokenBatch batch{tokens, positions, {&segment, 1}, {&whole, 1}};
  const RowPlan rows(model_.table, batch, overlay_);

  Workspace::Scope scope(*context_.workspace);
  Activations a = allocate_activations(context_, model_, n);
  forward_hidden(context_, model_, batch, rows, a, &cache_);
  const std::int64_t last = n - 1;
  forward_logits(context_, model_, a, {&last, 1}, matrix(logits_.data(), 1, model_.config.vocab));
  return logits_;
}

void Session::rewind(std::int64_t count) {
  require(count >= 0 && count <= static_cast<std::int64_t>(tokens_.size()), "rewind within what was fed");
  tokens_.resize(static_cast<std::size_t>(count));  // cached rows beyond are overwritten before they are read
}

std::span<const std::int32_t> Session::reuse(std::span<const std::int32_t> prompt) {
  require(!prompt.empty(), "a prompt of no tokens");
  const auto end = std::mismatch(prompt.begin(), prompt.end() - 1, tokens_.begin(), tokens_.end()).first;
  rewind(end - prompt.begin());
  return {end, prompt.end()};
}

std::vector<std::int32_t> generate(Session& session, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options,
                                   const std::function<bool(std::int32_t)>& on_token) {
  std::vector<std::int32_t> made;
  if (options.max_tokens <= 0) return made;
  Sampler sampler(options);
  std::span<const float> logits = session.feed(prompt);
  sampler.see_prompt(session.tokens());
  while (true) {
    const std::int32_t token = sampler.choose(logits, static_cast<std::uint64_t>(session.tokens().size()));
    if (sampler.stops(token)) break;
    sampler.accept(token);
    made.push_back(token);
    if (on_token && !on_token(token)) break;
    const bool full = static_cast<std::int64_t>(session.tokens().size()) >= session.capacity();
    if (full || static_cast<std::int64_t>(made.size()) >= options.max_tokens) break;
    logits = session.feed({&made.back(), 1});
  }
  return made;
}

}  // namespace stem
