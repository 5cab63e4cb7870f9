// The byte alphabet of byte-level BPE: 256 printable characters that stand for the 256 byte values, so that
// vocabularies can be written as JSON strings ("Ġthe" is the token " the").
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace stem {

/// The code point that stands for each byte: the byte itself where Latin-1 prints it, else U+0100, U+0101, …
/// in the order of the remaining bytes. Source: the GPT-2 tokenizer's byte encoder.
const std::array<char32_t, 256>& byte_alphabet();

/// `bytes` written in the alphabet.
std::string to_alphabet(std::string_view bytes);

/// The bytes that `written` stands for, or nothing if it holds a character outside the alphabet.
std::optional<std::string> from_alphabet(std::string_view written);

}  // namespace stem
