// UTF-8: where it is ill-formed, and how ill-formed bytes are shown.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace stem {

/// What stands at the front of some bytes.
struct Utf8Step {
  enum class Kind { kCharacter, kInvalid, kIncomplete };
  Kind kind;
  std::size_t length;  ///< bytes of it, at least 1
  char32_t code;       ///< the code point of a kCharacter, else U+FFFD
};

/// Looks at the front of non-empty `bytes`. kInvalid spans the longest prefix that some character starts with
/// (at least one byte), the unit that U+FFFD replaces; kIncomplete is such a prefix cut by the end of
/// `bytes`. Source: The Unicode Standard, table 3-7 and "U+FFFD Substitution of Maximal Subparts".
Utf8Step utf8_step(std::string_view bytes);

/// Bytes of the longest well-formed prefix.
std::size_t utf8_valid_prefix(std::string_view bytes);

/// Error (kFormat) `name: ill-formed UTF-8 at byte N (0x..)` unless `text` is well-formed.
void check_utf8(std::string_view text, std::string_view name);

/// Appends `bytes` to `out` with every maximal ill-formed part replaced by U+FFFD, and returns the number of
/// bytes consumed: all of them, or, where `keep_incomplete` is set, all but a cut character at the end.
std::size_t append_lossy(std::string_view bytes, bool keep_incomplete, std::string& out);

/// Appends a code point (a scalar value) as UTF-8.
void append_utf8(char32_t code, std::string& out);

}  // namespace stem
