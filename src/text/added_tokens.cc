#include "text/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/utf8.h"

namespace stem {
namespace {

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Unicode's \w: letters, marks, decimal digits, letter numbers, connector punctuation, joiners.
bool is_word_character(char32_t c) {
  if (c == 0x200C || c == 0x200D) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // circled and squared letters are symbols, but alphabetic
      return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

// The last character of well-formed text, which must not be empty.
Utf8Step last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return utf8_step(text.substr(begin));
}

}  // namespace

void AddedTokenFinder::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  std::int32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<unsigned char>(c);
    std::int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<std::int32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node == 0) {
        first_[byte] = next;
      } else {
        nodes_[static_cast<std::size_t>(node)].children.emplace_back(byte, next);
      }
    }
    node = next;
  }
  // Of two tokens that normalise to the same text the first one is found.
  std::int32_t& slot = nodes_[static_cast<std::size_t>(node)].token;
  if (slot >= 0) return;
  slot = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
}

std::int32_t AddedTokenFinder::child(std::int32_t node, unsigned char byte) const {
  if (node == 0) return first_[byte];
  for (const auto& [label, next] : nodes_[static_cast<std::size_t>(node)].children) {
    if (label == byte) return next;
  }
  return -1;
}

std::pair<std::int32_t, std::size_t> AddedTokenFinder::match(std::string_view text) const {
  std::pair<std::int32_t, std::size_t> longest{-1, 0};
  std::int32_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    node = child(node, static_cast<unsigned char>(text[i]));
    if (node < 0) break;
    const std::int32_t token = nodes_[static_cast<std::size_t>(node)].token;
    if (token >= 0) longest = {token, i + 1};
  }
  return longest;
}

void AddedTokenFinder::for_each_piece(std::string_view text, bool allow_special,
                                      const std::function<void(std::string_view, std::int32_t)>& emit) const {
  std::size_t covered = 0;  // every byte before it was emitted
  std::size_t at = 0;
  while (!empty() && at < text.size()) {
    const auto [index, length] = match(text.substr(at));
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(index)];
    std::size_t begin = at, end = at + length;
    at = end;  // also where the token does not count: the search goes on behind it
    if (token.special && !allow_special) continue;
    if (token.single_word) {
      if (begin > 0 && is_word_character(last_character(text.substr(0, begin)).code)) continue;
      if (end < text.size() && is_word_character(utf8_step(text.substr(end)).code)) continue;
    }
    if (token.lstrip) {
      while (begin > covered) {
        const Utf8Step last = last_character(text.substr(0, begin));
        if (!is_white_space(last.code)) break;
        begin -= last.length;
      }
    }
    if (token.rstrip) {
      while (end < text.size()) {
        const Utf8Step first = utf8_step(text.substr(end));
        if (!is_white_space(first.code)) break;
        end += first.length;
      }
      at = end;
    }
    if (covered < begin) emit(text.substr(covered, begin - covered), -1);
    emit(text.substr(begin, end - begin), token.id);
    covered = end;
  }
  if (covered < text.size()) emit(text.substr(covered), -1);
}

}  // namespace stem
