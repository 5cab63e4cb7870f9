// For the tests of pages: whether every tag is closed in the right order, and nothing is loaded from
// elsewhere.
#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>
#include <vector>

namespace stem {

/// What is wrong with the markup of `page`, empty if nothing. Every element must be closed (void ones by
/// "/>"), attributes quoted, and & start an entity.
inline std::string markup_fault(std::string_view page) {
  std::vector<std::string> open;
  std::size_t at = page.starts_with("<!DOCTYPE html>") ? 15 : 0;
  while (at < page.size()) {
    if (page[at] == '&') {
      const std::size_t end = page.find(';', at);
      if (end == std::string_view::npos || end - at > 7)
        return "a bare & at " + std::string(page.substr(at, 30));
    }
    if (page[at] == '>') return "a bare > before " + std::string(page.substr(at, 30));
    if (page[at] != '<') {
      ++at;
      continue;
    }
    std::size_t end = at;
    for (bool quoted = false; end < page.size() && (quoted || page[end] != '>'); ++end)
      quoted ^= page[end] == '"';
    if (end == page.size()) return "an open tag at " + std::string(page.substr(at, 40));
    const std::string_view tag = page.substr(at + 1, end - at - 1);
    at = end + 1;
    const bool closes = tag.starts_with('/');
    std::size_t letters = closes ? 1 : 0;
    while (letters < tag.size() && std::isalnum(static_cast<unsigned char>(tag[letters])) != 0) ++letters;
    const std::string name(tag.substr(closes ? 1 : 0, letters - (closes ? 1 : 0)));
    if (name.empty()) return "no tag: <" + std::string(tag.substr(0, 40)) + ">";
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return "quotes in <" + std::string(tag) + ">";
    if (closes) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (!tag.ends_with('/')) {
      open.push_back(name);
      if (name == "style") at = page.find("</style>", at);
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> stays open";
}

/// What would be loaded from elsewhere or run, empty if nothing.
inline std::string outside_reference(std::string_view page) {
  for (const char* const word :
       {"http:", "https:", "src=", "url(", "@import", "<link", "<script", "<iframe", "xlink"}) {
    if (page.find(word) != std::string_view::npos) return word;
  }
  return "";
}

}  // namespace stem
