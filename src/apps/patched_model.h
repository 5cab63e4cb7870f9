// What most commands open: a model with the patches that the user named, and prompts in its tokens.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "apps/model_directory.h"
#include "apps/runtime.h"
#include "edit/patch_overlay.h"
#include "generate/session.h"

namespace stem {

struct PatchedModel {
  LoadedModel loaded;
  Overlay overlay;
  std::vector<PatchFile> patches;

  const Model& model() const { return loaded.model; }
  const Tokenizer& tokenizer() const { return loaded.tokenizer; }
  PatchTarget target() const {
    return {&loaded.model, loaded.manifest.uuid, loaded.manifest.tokenizer, loaded.manifest.row_root};
  }
};

/// Loads a model directory and puts `patches` in force in the order given.
PatchedModel open_model(Runtime& runtime, const std::filesystem::path& directory,
                        const std::vector<std::string>& patches = {}, const LoadOptions& options = {});

/// End-of-text token, then the prompt: as documents were trained. Throws kFormat for a prompt that is not
/// UTF-8, kUsage for one that does not fit the context.
std::vector<std::int32_t> prompt_tokens(const LoadedModel& loaded, std::string_view prompt);

/// Greedy (or sampled) continuation as text.
std::string complete(const Context& context, const LoadedModel& loaded, const Overlay* overlay,
                     std::string_view prompt, std::int64_t max_tokens);

/// The likeliest next tokens after a prompt.
struct NamedCandidate {
  std::string token;
  std::int32_t id = 0;
  double probability = 0.0;
};
std::vector<NamedCandidate> next_candidates(const Context& context, const LoadedModel& loaded,
                                            const Overlay* overlay, std::string_view prompt, std::int64_t k);

/// A token as people read it: in quotes, control characters escaped.
std::string in_quotes(std::string_view token);
/// The same without the quotes: a prompt of several lines as one.
std::string one_line(std::string_view text);

}  // namespace stem
