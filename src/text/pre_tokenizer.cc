#include "text/pre_tokenizer.h"

#include <array>
#include <utility>

#include "core/error.h"

namespace stem {
namespace {

// Contractions; letters, digits or other characters with at most one space before; white space, leaving the
// last space to a following word. Source: the GPT-2 tokenizer.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr std::size_t kMaxStages = 64;

SplitBehavior parse_behavior(const Json& json, std::string_view name) {
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames{{
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  }};
  const std::string written = get_string(json, "behavior", name);
  for (const auto& [known, behavior] : kNames) {
    if (written == known) return behavior;
  }
  fail(ErrorCode::kFormat,
       "{}: behavior: expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, found {}",
       name, shown(written));
}

}  // namespace

PreTokenizer::PreTokenizer(const Json& json, std::string_view name) {
  add(json, name);
  if (!has_byte_level_) {
    fail(ErrorCode::kFormat,
         "{}: expected ByteLevel as the last step, found none (only byte-level BPE is supported)", name);
  }
}

void PreTokenizer::add(const Json& json, std::string_view name) {
  if (json.is_null()) return;
  const std::string type = get_string(json, "type", name);
  if (before_.size() >= kMaxStages) fail(ErrorCode::kFormat, "{}: more than {} steps", name, kMaxStages);
  if (type != "Sequence" && has_byte_level_) {
    fail(ErrorCode::kFormat, "{}: unsupported: {} after ByteLevel", name, shown(type));
  }
  if (type == "Sequence") {
    for (const Json& step : get_array(json, "pretokenizers", name, kMaxStages)) add(step, name);
  } else if (type == "ByteLevel") {
    has_byte_level_ = true;
    add_prefix_space_ = get_bool(json, "add_prefix_space", name);
    if (get_bool_or(json, "use_regex", name, true)) {
      byte_level_.push_back({Pattern(kGpt2Pattern, false, name), SplitBehavior::kIsolated, false});
    }
  } else if (type == "Split") {
    const Json& pattern = get_object(json, "pattern", name);
    const bool literal = find_field(pattern, "Regex", name) == nullptr;
    const std::string expression = get_string(pattern, literal ? "String" : "Regex", name);
    const SplitBehavior behavior = parse_behavior(json, name);
    const bool invert = get_bool_or(json, "invert", name, false);
    if (literal && expression.empty()) fail(ErrorCode::kFormat, "{}: Split: the string is empty", name);
    before_.push_back({Pattern(expression, literal, name), behavior, invert});
  } else if (type == "Digits") {
    const bool individual = get_bool_or(json, "individual_digits", name, false);
    before_.push_back({Pattern(R"(\p{N})", false, name),
                       individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false});
  } else {
    fail(ErrorCode::kFormat, "{}: type: expected ByteLevel, Split, Digits or Sequence, found {}", name,
         shown(type));
  }
}

void PreTokenizer::for_each_word(std::string_view text,
                                 const std::function<void(std::string_view)>& emit) const {
  if (!text.empty()) run(0, text, emit);
}

void PreTokenizer::run(std::size_t stage, std::string_view text,
                       const std::function<void(std::string_view)>& emit) const {
  if (stage < before_.size()) {
    const Stage& step = before_[stage];
    split(step.pattern, step.behavior, step.invert, text,
          [&](std::string_view piece) { run(stage + 1, piece, emit); });
    return;
  }
  std::string prefixed;
  if (add_prefix_space_ && text.front() != ' ') {
    prefixed.reserve(text.size() + 1);
    prefixed += ' ';
    prefixed += text;
    text = prefixed;
  }
  if (byte_level_.empty()) {
    emit(text);
  } else {
    split(byte_level_[0].pattern, SplitBehavior::kIsolated, false, text, emit);
  }
}

Json PreTokenizer::describe(std::string_view pattern) {
  Json byte_level = {{"type", "ByteLevel"},
                     {"add_prefix_space", false},
                     {"trim_offsets", true},
                     {"use_regex", pattern.empty()}};
  if (pattern.empty()) return byte_level;
  const Json splitter = {{"type", "Split"},
                         {"pattern", {{"Regex", std::string(pattern)}}},
                         {"behavior", "Isolated"},
                         {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({splitter, byte_level})}};
}

}  // namespace stem
