#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::size_t kMaxPatternBytes = 16 << 10;
constexpr std::uint32_t kMatchLimit = 20'000'000;  // backtracking steps of one match
constexpr std::uint32_t kHeapLimitKb = 64 << 10;
constexpr std::size_t kJitStackBytes = 1 << 20;

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeJitStack {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

// What one thread needs to match; made once per thread, for any pattern.
struct MatchState {
  std::unique_ptr<pcre2_match_data, FreeMatchData> data{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context{pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, FreeJitStack> stack{
      pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)};
  MatchState() {
    if (!data || !context) throw std::bad_alloc();
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKb);
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// The constructs that PCRE2 reads differently from Oniguruma; empty if there is none.
std::string foreign_construct(std::string_view text) {
  int class_depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && i + 1 < text.size()) {
      const char escaped = text[++i];
      if (std::string_view("hHRXKGQEyYOg").find(escaped) != std::string_view::npos) {
        return std::string("\\") + escaped;
      }
      if ((escaped == 'p' || escaped == 'P' || escaped == 'x') && i + 1 < text.size() && text[i + 1] == '{') {
        i = std::min(text.find('}', i), text.size() - 1);
      }
    } else if (class_depth > 0) {
      if (c == '[' && i + 1 < text.size() && text[i + 1] == ':') {
        i = std::min(text.find(":]", i), text.size() - 2) + 1;
      } else if (c == '[') {
        return "a class within a class";
      } else if (c == ']') {
        --class_depth;
      } else if (c == '&' && i + 1 < text.size() && text[i + 1] == '&') {
        return "&& in a class";
      }
    } else if (c == '[') {
      ++class_depth;
      if (i + 1 < text.size() && text[i + 1] == '^') ++i;
      if (i + 1 < text.size() && text[i + 1] == ']') return "an empty class";
    } else if (c == '(' && i + 1 < text.size() && text[i + 1] == '*') {
      return "(*";
    } else if (c == '}' && i + 1 < text.size() && text[i + 1] == '+') {
      // Possessive in PCRE2; Oniguruma repeats the counted repetition.
      return "}+";
    }
  }
  return {};
}

// U+180E is \s for PCRE2 but has not been White_Space since Unicode 6.3. U+200B has the same length and
// general category and is no space for either, so it takes its place while matching. The result is empty if
// not needed.
std::string without_180e(std::string_view subject) {
  constexpr std::string_view kSeparator = "\xE1\xA0\x8E", kStandIn = "\xE2\x80\x8B";
  std::size_t at = subject.find(kSeparator);
  if (at == std::string_view::npos) return {};
  std::string copy(subject);
  for (; at != std::string::npos; at = copy.find(kSeparator, at)) copy.replace(at, kStandIn.size(), kStandIn);
  return copy;
}

}  // namespace

struct Pattern::Compiled {
  pcre2_code* code = nullptr;
  bool literal = false;
  ~Compiled() { pcre2_code_free(code); }
};

Pattern::Pattern(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Pattern::Pattern(std::string_view expression, bool literal, std::string_view name)
    : compiled_(std::make_unique<Compiled>()), name_(name) {
  if (expression.size() > kMaxPatternBytes) {
    fail(ErrorCode::kFormat, "{}: expected a pattern of at most {} bytes, found {}", name, kMaxPatternBytes,
         expression.size());
  }
  if (!literal) {
    const std::string foreign = foreign_construct(expression);
    if (!foreign.empty()) fail(ErrorCode::kFormat, "{}: unsupported in a pattern: {}", name, foreign);
  }
  compiled_->literal = literal;
  std::uint32_t options = PCRE2_UTF;
  if (literal) {
    options |= PCRE2_LITERAL;
  } else {
    options |= PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;  // ^ and $ are line ends in Ruby syntax
  }
  std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  compiled_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), options,
                                  &code, &offset, context.get());
  if (compiled_->code == nullptr) {
    fail(ErrorCode::kFormat, "{}: byte {}: {}", name, offset, pcre2_message(code));
  }
  // Where there is no JIT, pcre2_match interprets: slower, the same matches.
  pcre2_jit_compile(compiled_->code, PCRE2_JIT_COMPLETE);
}

void Pattern::for_each_span(std::string_view subject, const Emit& emit) const {
  thread_local const MatchState state;
  const std::string replaced = compiled_->literal ? std::string() : without_180e(subject);
  if (!replaced.empty()) subject = replaced;

  const auto text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  std::size_t covered = 0;  // every byte before it was emitted
  std::size_t start = 0;
  std::optional<std::size_t> last_end;
  while (start <= subject.size()) {
    int found = pcre2_match(compiled_->code, text, subject.size(), start, PCRE2_NO_UTF_CHECK,
                            state.data.get(), state.context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(compiled_->code, text, subject.size(), start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                          state.data.get(), state.context.get());
    }
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      fail(ErrorCode::kFormat, "{}: matching stopped at byte {} of {}: {}", name_, start, subject.size(),
           pcre2_message(found));
    }
    const PCRE2_SIZE* match = pcre2_get_ovector_pointer(state.data.get());
    const Span span{match[0], match[1]};
    require(span.begin >= start && span.end >= span.begin, "a match runs forwards");
    if (span.begin == span.end) {
      // Step over one character, and leave out an empty match where the previous match ended.
      start = span.end + 1;
      while (start < subject.size() && (static_cast<unsigned char>(subject[start]) & 0xC0) == 0x80) ++start;
      if (last_end == span.begin) continue;
    } else {
      start = span.end;
    }
    last_end = span.end;
    if (covered < span.begin) emit({covered, span.begin}, false);
    emit(span, true);
    covered = span.end;
  }
  if (covered < subject.size()) emit({covered, subject.size()}, false);
}

void split(const Pattern& pattern, SplitBehavior behavior, bool invert, std::string_view subject,
           const std::function<void(std::string_view)>& emit) {
  const auto emit_span = [&](Span span) {
    if (span.end > span.begin) emit(subject.substr(span.begin, span.end - span.begin));
  };
  // At most one piece waits for what follows it; the spans are contiguous, so a piece grows by its end.
  std::optional<Span> waiting;
  bool previous = false;  // whether the span before was a match
  pattern.for_each_span(subject, [&](Span span, bool is_match) {
    is_match = is_match != invert;
    switch (behavior) {
      case SplitBehavior::kIsolated:
        emit_span(span);
        return;
      case SplitBehavior::kRemoved:
        if (!is_match) emit_span(span);
        return;
      case SplitBehavior::kContiguous:
      case SplitBehavior::kMergedWithPrevious: {
        const bool joins =
            behavior == SplitBehavior::kContiguous ? is_match == previous : is_match && !previous;
        previous = is_match;
        if (joins && waiting) {
          waiting->end = span.end;
          return;
        }
        break;
      }
      case SplitBehavior::kMergedWithNext:
        if (!is_match && waiting) {
          emit_span({waiting->begin, span.end});
          waiting.reset();
          return;
        }
        if (!is_match) {
          emit_span(span);
          return;
        }
        break;
    }
    if (waiting) emit_span(*waiting);
    waiting = span;
  });
  if (waiting) emit_span(*waiting);
}

}  // namespace stem
