#include "text/utf8.h"

#include <cstdint>
#include <cstring>

#include "core/error.h"

namespace stem {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Bytes at the front that are below 0x80, found eight at a time.
std::size_t ascii_prefix(std::string_view bytes) {
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < bytes.size() && static_cast<unsigned char>(bytes[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes) {
  using Kind = Utf8Step::Kind;
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {Kind::kCharacter, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Kind::kInvalid, 1, 0xFFFD};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // Only the second byte's range depends on the lead: no overlong forms, no surrogates, nothing past
  // U+10FFFF.
  unsigned low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t code = lead & (0xFFu >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Kind::kIncomplete, i, 0xFFFD};
    if (at(i) < low || at(i) > high) return {Kind::kInvalid, i, 0xFFFD};
    code = (code << 6) | (at(i) & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Kind::kCharacter, length, code};
}

std::size_t utf8_valid_prefix(std::string_view bytes) {
  std::size_t i = 0;
  while (true) {
    i += ascii_prefix(bytes.substr(i));
    if (i == bytes.size()) return i;
    const Utf8Step step = utf8_step(bytes.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter) return i;
    i += step.length;
  }
}

void check_utf8(std::string_view text, std::string_view name) {
  const std::size_t valid = utf8_valid_prefix(text);
  if (valid == text.size()) return;
  fail(ErrorCode::kFormat, "{}: ill-formed UTF-8 at byte {} (0x{:02X})", name, valid,
       static_cast<unsigned char>(text[valid]));
}

std::size_t append_lossy(std::string_view bytes, bool keep_incomplete, std::string& out) {
  std::size_t i = 0;
  while (i < bytes.size()) {
    const std::size_t valid = utf8_valid_prefix(bytes.substr(i));
    out.append(bytes, i, valid);
    i += valid;
    if (i == bytes.size()) break;
    const Utf8Step step = utf8_step(bytes.substr(i));
    if (step.kind == Utf8Step::Kind::kIncomplete && keep_incomplete) break;
    out += kReplacement;
    i += step.length;
  }
  return i;
}

void append_utf8(char32_t code, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | (code >> 6));
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | (code >> 12));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | (code >> 18));
    put(0x80 | ((code >> 12) & 0x3F));
    put(0x80 | ((code >> 6) & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

}  // namespace stem
