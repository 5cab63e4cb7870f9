// Unicode normalisation form C.
#pragma once

#include <string>
#include <string_view>

namespace stem {

/// `text` in NFC. Well-formed UTF-8 in and out. Time O(n log n), whatever the text.
std::string to_nfc(std::string_view text);

/// True if `text` is surely in NFC already (every code point below U+0300), a linear look at the bytes.
bool surely_nfc(std::string_view text);

}  // namespace stem
