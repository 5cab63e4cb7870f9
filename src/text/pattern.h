// Regular expressions of pre-tokenizers, and the ways Hugging Face tokenizers cut text at their matches.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace stem {

/// A span of a subject string.
struct Span {
  std::size_t begin, end;  ///< bytes, half open
};

/// A compiled pattern with Unicode classes. Immutable: one Pattern may be matched from several threads.
/// The dialect is that of Oniguruma's Ruby syntax as far as tokenizers use it; constructs that PCRE2 would
/// accept with another meaning are refused. `\s` is White_Space.
class Pattern {
 public:
  /// `expression` is a regular expression, or, when `literal`, a string that stands for itself. Error
  /// (kFormat) naming `name`, the offset and the reason if it does not compile.
  Pattern(std::string_view expression, bool literal, std::string_view name);
  Pattern(Pattern&&) noexcept;
  ~Pattern();

  /// Calls emit(span, is_match) for consecutive spans that cover `subject` (well-formed UTF-8): the matches,
  /// leftmost first and not overlapping, and the text between them. Empty matches are reported as empty
  /// spans, except directly after a match. Error (kFormat) if the pattern needs more steps or memory than
  /// allowed.
  using Emit = std::function<void(Span, bool)>;
  void for_each_span(std::string_view subject, const Emit& emit) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
  std::string name_;
};

/// What becomes of a delimiter (a match) when text is split.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// Splits `subject` at the matches of `pattern` (at everything else if `invert`) and calls emit(piece) for
/// every piece that is not empty, in order.
void split(const Pattern& pattern, SplitBehavior behavior, bool invert, std::string_view subject,
           const std::function<void(std::string_view)>& emit);

}  // namespace stem
