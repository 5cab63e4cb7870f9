#include "report/html.h"

#include <cmath>

namespace stem {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Bytes of the well-formed UTF-8 character at `at`, 0 if there is none.
std::size_t character_bytes(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : static_cast<unsigned char>(0);
  };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool outside = (first == 0xED && second > 0x9F) || (first == 0xF4 && second > 0x8F);
  return overlong || outside ? 0 : size;
}

/// Calls visit(character) for each code point, with U+FFFD for every byte that is in none.
template <class Visit>
void for_each_character(std::string_view text, Visit&& visit) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = character_bytes(text, at);
    visit(size == 0 ? kReplacement : text.substr(at, size));
    at += size == 0 ? 1 : size;
  }
}

std::string signed_text(bool negative, std::string_view digits) {
  return fmt::format("{}{}", negative ? "−" : "", digits);
}

}  // namespace

Html escape(std::string_view text) {
  Html out;
  out.text.reserve(text.size());
  for_each_character(text, [&](std::string_view c) {
    const auto byte = static_cast<unsigned char>(c[0]);
    if (c == "&")
      out.text += "&amp;";
    else if (c == "<")
      out.text += "&lt;";
    else if (c == ">")
      out.text += "&gt;";
    else if (c == "\"")
      out.text += "&quot;";
    else if (c == "'")
      out.text += "&#39;";
    else if ((byte < 0x20 && c != "\n" && c != "\t") || byte == 0x7F)
      out.text += kReplacement;
    else
      out.text += c;
  });
  return out;
}

std::size_t characters(std::string_view text) {
  std::size_t count = 0;
  for_each_character(text, [&](std::string_view) { ++count; });
  return count;
}

std::string shortened(std::string_view text, std::size_t max_characters) {
  std::string all, cut;
  std::size_t count = 0;
  for_each_character(text, [&](std::string_view c) {
    if (++count < max_characters) cut += c;
    if (count <= max_characters) all += c;
  });
  return count <= max_characters ? all : cut + "…";
}

std::string visible(std::string_view token) {
  std::string out;
  for (const char c : token) {
    if (c == ' ')
      out += "·";
    else if (c == '\n')
      out += "↵";
    else if (c == '\t')
      out += "⇥";
    else
      out += c;
  }
  return out;
}

Html token_chip(std::string_view token) {
  Html out{"<code class=\"token\">"};
  std::string plain;
  for (const char c : token) {
    if (c != ' ' && c != '\n' && c != '\t') {
      plain += c;
      continue;
    }
    out += html("{}<i>{}</i>", plain, visible({&c, 1}));
    plain.clear();
  }
  out += html("{}</code>", plain);
  return out;
}

std::string grouped(double value) {
  if (!std::isfinite(value) || std::abs(value) >= 1e18) return "–";
  const std::string plain = fmt::format("{:.0f}", std::abs(value));
  std::string digits;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    if (i > 0 && (plain.size() - i) % 3 == 0) digits.push_back(',');
    digits.push_back(plain[i]);
  }
  return signed_text(value < 0 && plain != "0", digits);
}

std::string fixed(double value, int decimals) {
  if (!std::isfinite(value)) return "–";
  if (std::abs(value) >= 1e15) return significant(value);
  return signed_text(value < 0, fmt::format("{:.{}f}", std::abs(value), decimals));
}

std::string rate(double per_second) {
  return per_second < 100 ? fixed(per_second, 1) : grouped(std::round(per_second));
}

std::string significant(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  return signed_text(value < 0, fmt::format("{:.{}g}", std::abs(value), digits));
}

std::string percent(double share, int decimals) {
  return std::isfinite(share) ? fixed(100 * share, decimals) + "\u00A0%" : "–";
}

std::string scaled(double value) {
  if (!std::isfinite(value)) return "–";
  const char* const units[] = {"", "k", "M", "G", "T", "P", "E"};
  std::size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit < 6) value /= 1000, ++unit;
  if (unit == 0) return significant(value);
  const double size = std::abs(value);
  return fmt::format("{}\u00A0{}", fixed(value, size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2), units[unit]);
}

std::string byte_size(double bytes) {
  if (!std::isfinite(bytes)) return "–";
  const char* const units[] = {"bytes", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  while (std::abs(bytes) >= 1000 && unit < 4) bytes /= 1000, ++unit;
  return fmt::format("{}\u00A0{}", unit == 0 || bytes >= 100 ? grouped(bytes) : fixed(bytes, 1), units[unit]);
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "–";
  if (seconds < 1) return fmt::format("{:.0f} ms", 1000 * seconds);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

}  // namespace stem
