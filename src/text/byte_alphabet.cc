#include "text/byte_alphabet.h"

#include "text/utf8.h"

namespace stem {
namespace {

// The last of the characters that stand for unprintable bytes is U+0143.
constexpr std::size_t kCodes = 0x144;

std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    alphabet[byte] = printable ? byte : next++;
  }
  return alphabet;
}

std::array<int, kCodes> make_inverse() {
  std::array<int, kCodes> inverse;
  inverse.fill(-1);
  for (int byte = 0; byte < 256; ++byte) inverse[byte_alphabet()[static_cast<std::size_t>(byte)]] = byte;
  return inverse;
}

}  // namespace

const std::array<char32_t, 256>& byte_alphabet() {
  static const std::array<char32_t, 256> alphabet = make_alphabet();
  return alphabet;
}

std::string to_alphabet(std::string_view bytes) {
  std::string written;
  for (const char c : bytes) append_utf8(byte_alphabet()[static_cast<unsigned char>(c)], written);
  return written;
}

std::optional<std::string> from_alphabet(std::string_view written) {
  static const std::array<int, kCodes> inverse = make_inverse();
  std::string bytes;
  while (!written.empty()) {
    const Utf8Step step = utf8_step(written);
    if (step.code >= kCodes || inverse[step.code] < 0) return std::nullopt;
    bytes += static_cast<char>(static_cast<unsigned char>(inverse[step.code]));
    written.remove_prefix(step.length);
  }
  return bytes;
}

}  // namespace stem
