// One sequence being continued: its tokens, its keys and values, the patches in force.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "generate/sampler.h"
#include "model/forward.h"
#include "tables/overlay.h"

namespace stem {

/// Feeds tokens through the model in inference mode (batch-invariant kernels): the logits of a position do
/// not depend on how the tokens before it were cut into calls. The model and the overlay must outlive the
/// session. Cached keys and values belong to this overlay: another overlay needs another session.
class Session {
 public:
  /// `capacity`: most tokens it can hold, at most the model's max_positions.
  Session(const Context& context, const Model& model, const Overlay* overlay = nullptr,
          std::int64_t capacity = 0);

  /// Appends tokens (at least one) and returns the logits [V] after the last. Valid until the next call.
  /// Throws kUsage when an id is not in the vocabulary or the context is full.
  std::span<const float> feed(std::span<const std::int32_t> tokens);

  /// Forgets all but the first `count` tokens: what follows is as if only these had been fed.
  void rewind(std::int64_t count);

  /// Forgets all but what `prompt` (at least one token) begins with, and returns the rest of it to be fed, at
  /// least its last token.
  std::span<const std::int32_t> reuse(std::span<const std::int32_t> prompt);

  const std::vector<std::int32_t>& tokens() const { return tokens_; }
  std::int64_t capacity() const { return cache_.capacity(); }

 private:
  Context context_;
  const Model& model_;
  const Overlay* overlay_;
  KvCache cache_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> logits_;
};

/// How to continue a prompt.
struct GenerateOptions : SamplingOptions {
  std::int64_t max_tokens = 64;
};

/// Continues `prompt` in `session`. `on_token`, when given, sees each token as it is made; returning false
/// stops.
std::vector<std::int32_t> generate(Session& session, std::span<const std::int32_t> prompt,
                                   const GenerateOptions& options,
                                   const std::function<bool(std::int32_t)>& on_token = {});

}  // namespace stem
