#include "text/pre_tokenizer.h"

#include <array>
#include <utility>

#include "core/error.h"
#include "text/utf8.h"

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

Metaspace read_metaspace(const Json& json, std::string_view name) {
  Metaspace metaspace;
  metaspace.replacement = get_string(json, "replacement", name, 4);
  const std::string& mark = metaspace.replacement;
  if (mark.empty() || utf8_step(mark).length != mark.size()) {
    fail(ErrorCode::kFormat, "{}: replacement: expected one character, found {}", name, shown(mark));
  }
  const std::string prepend = get_string_or(json, "prepend_scheme", name, "always");
  if (prepend == "first") {
    metaspace.prepend = Metaspace::Prepend::kFirst;
  } else if (prepend == "never") {
    metaspace.prepend = Metaspace::Prepend::kNever;
  } else if (prepend != "always") {
    fail(ErrorCode::kFormat, "{}: prepend_scheme: expected always, first or never, found {}", name,
         shown(prepend));
  }
  // the older form of prepend_scheme, kept beside it
  if (!get_bool_or(json, "add_prefix_space", name, true) && prepend != "never") {
    fail(ErrorCode::kFormat, "{}: add_prefix_space: false contradicts prepend_scheme {}", name,
         shown(prepend));
  }
  metaspace.split = get_bool_or(json, "split", name, true);
  return metaspace;
}

Pattern read_pattern(const Json& json, std::string_view name) {
  const Json& pattern = get_object(json, "pattern", name);
  const bool literal = find_field(pattern, "Regex", name) == nullptr;
  const std::string expression = get_string(pattern, literal ? "String" : "Regex", name);
  if (literal && expression.empty()) {
    fail(ErrorCode::kFormat, "{}: {}: the string is empty", name, get_string(json, "type", name));
  }
  return Pattern(expression, literal, name);
}

PreTokenizer::PreTokenizer(const Json& json, std::string_view name) {
  add(json, name);
}

void PreTokenizer::add(const Json& json, std::string_view name) {
  if (json.is_null()) return;
  const std::string type = get_string(json, "type", name);
  if (before_.size() >= kMaxStages) fail(ErrorCode::kFormat, "{}: more than {} steps", name, kMaxStages);
  if (type != "Sequence" && (has_byte_level_ || metaspace_)) {
    fail(ErrorCode::kFormat, "{}: unsupported: {} after {}", name, shown(type),
         has_byte_level_ ? "ByteLevel" : "Metaspace");
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
    Pattern pattern = read_pattern(json, name);
    const SplitBehavior behavior = parse_behavior(json, name);
    before_.push_back({std::move(pattern), behavior, get_bool_or(json, "invert", name, false)});
  } else if (type == "Digits") {
    const bool individual = get_bool_or(json, "individual_digits", name, false);
    before_.push_back({Pattern(R"(\p{N})", false, name),
                       individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false});
  } else if (type == "Metaspace") {
    metaspace_ = read_metaspace(json, name);
    if (metaspace_->split) {
      marks_.push_back({Pattern(metaspace_->replacement, true, name), SplitBehavior::kMergedWithNext, false});
    }
  } else {
    fail(ErrorCode::kFormat, "{}: type: expected ByteLevel, Metaspace, Split, Digits or Sequence, found {}",
         name, shown(type));
  }
}

void PreTokenizer::for_each_word(std::string_view text, const std::function<void(std::string_view)>& emit,
                                 bool first) const {
  if (!text.empty()) run(0, text, first, emit);
}

void PreTokenizer::run_metaspace(std::string_view text, bool first,
                                 const std::function<void(std::string_view)>& emit) const {
  const std::string& mark = metaspace_->replacement;
  std::string marked;
  marked.reserve(text.size() + mark.size());
  for (const char c : text) {
    if (c == ' ') {
      marked += mark;
    } else {
      marked += c;
    }
  }
  const bool prepends = metaspace_->prepend == Metaspace::Prepend::kAlways ||
                        (metaspace_->prepend == Metaspace::Prepend::kFirst && first);
  if (prepends && !marked.starts_with(mark)) marked.insert(0, mark);
  if (marks_.empty()) {
    emit(marked);
  } else {
    split(marks_[0].pattern, marks_[0].behavior, false, marked, emit);
  }
}

void PreTokenizer::run(std::size_t stage, std::string_view text, bool first,
                       const std::function<void(std::string_view)>& emit) const {
  if (stage < before_.size()) {
    const Stage& step = before_[stage];
    split(step.pattern, step.behavior, step.invert, text,
          [&](std::string_view piece) { run(stage + 1, piece, first && piece.data() == text.data(), emit); });
    return;
  }
  if (metaspace_) {
    run_metaspace(text, first, emit);
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
