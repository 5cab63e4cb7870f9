#include "apps/patched_model.h"

#include "generate/continuation.h"
#include "text/utf8.h"

namespace stem {

PatchedModel open_model(Runtime& runtime, const std::filesystem::path& directory,
                        const std::vector<std::string>& patches, const LoadOptions& options) {
  PatchedModel opened{load_model_directory(directory, runtime.inference(), options), {}, {}};
  for (const std::string& patch : patches)
    opened.patches.push_back(apply_patch(opened.target(), patch, opened.overlay));
  return opened;
}

std::vector<std::int32_t> prompt_tokens(const LoadedModel& loaded, std::string_view prompt) {
  check_utf8(prompt, "the prompt");
  std::vector<std::int32_t> tokens = text_tokens(loaded.tokenizer, prompt);
  const std::int64_t room = loaded.model.config.max_positions;
  if (static_cast<std::int64_t>(tokens.size()) > room) {
    fail(ErrorCode::kUsage, "the prompt: expected at most {} tokens (max_position_embeddings), found {}",
         room, tokens.size());
  }
  if (tokens.empty()) fail(ErrorCode::kUsage, "the prompt: expected a text, found none");
  return tokens;
}

std::string complete(const Context& context, const LoadedModel& loaded, const Overlay* overlay,
                     std::string_view prompt, std::int64_t max_tokens) {
  Session session(context, loaded.model, overlay);
  GenerateOptions options;
  options.max_tokens = max_tokens;
  if (const auto end = loaded.tokenizer.eos_id()) options.stop_tokens = {*end};
  return loaded.tokenizer.decode(generate(session, prompt_tokens(loaded, prompt), options), false, true);
}

std::vector<NamedCandidate> next_candidates(const Context& context, const LoadedModel& loaded,
                                            const Overlay* overlay, std::string_view prompt, std::int64_t k) {
  Session session(context, loaded.model, overlay);
  std::vector<NamedCandidate> named;
  for (const Candidate& c : top_candidates(session.feed(prompt_tokens(loaded, prompt)), k)) {
    named.push_back(
        {loaded.tokenizer.has_token(c.token) ? loaded.tokenizer.decode({&c.token, 1}, false, true) : "",
         c.token, c.probability});
  }
  return named;
}

std::string in_quotes(std::string_view token) {
  return Json(std::string(token)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string one_line(std::string_view text) {
  const std::string quoted = in_quotes(text);
  return quoted.substr(1, quoted.size() - 2);
}

}  // namespace stem
