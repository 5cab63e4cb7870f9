// Text that is safe to stand in a page. What users, files and models say enters through `escape` or `html`.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace stem {

/// A piece of well-formed HTML or SVG: never a string from outside.
struct Html {
  std::string text;
  Html& operator+=(const Html& more) {
    text += more.text;
    return *this;
  }
};

/// `text` as it reads: & < > " ' become entities, bytes that are not UTF-8 and control characters U+FFFD.
Html escape(std::string_view text);

/// Well-formed UTF-8 of at most `max_characters` code points, the last one "…" where some were left out.
std::string shortened(std::string_view text, std::size_t max_characters);
/// Code points of well-formed or repaired UTF-8.
std::size_t characters(std::string_view text);

namespace detail {
inline const std::string& lift(const Html& html) {
  return html.text;
}
template <class T>
requires std::is_arithmetic_v<T> T lift(T value) {
  return value;
}
inline std::string lift(std::string_view text) {
  return escape(text).text;
}
}  // namespace detail

/// fmt::format whose string arguments are escaped; Html arguments and `format` itself are taken as they are.
template <class... Args>
Html html(std::string_view format, const Args&... args) {
  return {fmt::format(fmt::runtime(format), detail::lift(args)...)};
}

/// A token for a reader: its spaces as "·", line breaks as "↵", tabs as "⇥".
std::string visible(std::string_view token);
/// The same as an inline element, with the marks in a quiet colour.
Html token_chip(std::string_view token);

// Numbers for a reader; "–" for what is not finite.
std::string grouped(double value);                      ///< 1,234,567
std::string fixed(double value, int decimals);          ///< 1.234
std::string rate(double per_second);                    ///< "34.5", "1,235": tenths of small ones alone
std::string significant(double value, int digits = 3);  ///< 0.00123, 12.3, 1.2e-07
std::string percent(double share, int decimals = 1);    ///< 0.982 -> "98.2 %"
std::string scaled(double value);                       ///< "39.0 M", with k, M, G, T, P, E
std::string byte_size(double bytes);                    ///< "1.6 MB" (powers of 1000)
std::string duration(double seconds);                   ///< "1 min 42 s"

}  // namespace stem
