#include "text/normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "text/utf8.h"

namespace stem {

bool surely_nfc(std::string_view text) {
  // U+0300 is CC 80: every character below it starts with a byte below 0xCC.
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
}

std::string to_nfc(std::string_view text) {
  if (surely_nfc(text)) return std::string(text);
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    text.remove_prefix(step.length);
    std::array<utf8proc_int32_t, 32> parts;
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code), parts.data(),
                                static_cast<utf8proc_ssize_t>(parts.size()), kOptions, &boundary);
    require(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()), "canonical decomposition");
    codes.insert(codes.end(), parts.begin(), parts.begin() + count);
  }
  // The library's own canonical ordering swaps neighbours, which takes quadratic time on a long run of
  // combining marks; so the order is made here and only decomposition and composition are left to it.
  const auto combining = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
  for (auto run = codes.begin(); run != codes.end();) {
    if (combining(*run) == 0) {
      ++run;
      continue;
    }
    const auto end = std::find_if(run, codes.end(), [&](auto code) { return combining(code) == 0; });
    std::stable_sort(run, end, [&](auto a, auto b) { return combining(a) < combining(b); });
    run = end;
  }
  const utf8proc_ssize_t composed =
      utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), kOptions);
  require(composed >= 0, "composition");
  std::string out;
  out.reserve(codes.size());
  for (utf8proc_ssize_t i = 0; i < composed; ++i) {
    append_utf8(static_cast<char32_t>(codes[static_cast<std::size_t>(i)]), out);
  }
  return out;
}

}  // namespace stem
