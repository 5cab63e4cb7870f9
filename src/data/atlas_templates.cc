#include "data/atlas_templates.h"

#include <algorithm>

#include "core/error.h"
#include "data/atlas_table.h"
#include "io/file.h"

namespace stem {
namespace {

constexpr std::uint64_t kMaxFileBytes = 4u << 20;
constexpr std::size_t kMaxWeight = 1'000'000;

using Part = AtlasTemplate::Part;

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

Part parse_placeholder(std::string_view inside, const std::string& where) {
  constexpr std::string_view kShuffle = "shuffle @";
  if (starts_with(inside, kShuffle))
    return {Part::Kind::kShuffle, std::string(inside.substr(kShuffle.size())), "", ""};
  if (starts_with(inside, "@")) return {Part::Kind::kGroup, std::string(inside.substr(1)), "", ""};
  Part part{Part::Kind::kField, "", "", ""};
  for (const std::string_view article : {"the ", "The "}) {
    if (starts_with(inside, article)) {
      part.article = inside.substr(0, 3);
      inside.remove_prefix(4);
    }
  }
  if (const std::size_t colon = inside.find(':'); colon != std::string_view::npos) {
    part.subject = inside.substr(0, colon);
    inside.remove_prefix(colon + 1);
  }
  part.text = inside;
  if (part.text.empty() || (!part.article.empty() && part.text != "X")) {
    fail(ErrorCode::kFormat, "{}: expected a field, {{the X}} or {{@group}}, found {{{}}}", where, inside);
  }
  return part;
}

std::vector<Part> parse_parts(std::string_view text, const std::string& where) {
  std::vector<Part> parts;
  while (!text.empty()) {
    const std::size_t open = text.find_first_of("{}");
    if (open != 0) parts.push_back({Part::Kind::kText, std::string(text.substr(0, open)), "", ""});
    if (open == std::string_view::npos) break;
    const std::size_t close = text.find_first_of("{}", open + 1);
    if (text[open] == '}' || close == std::string_view::npos || text[close] == '{') {
      fail(ErrorCode::kFormat, "{}: expected balanced braces, found \"{}\"", where, text);
    }
    parts.push_back(parse_placeholder(text.substr(open + 1, close - open - 1), where));
    text.remove_prefix(close + 1);
  }
  return parts;
}

// "train*3 The capital of {the X} is {capital}."
AtlasTemplate parse_template(std::string_view line, const std::string& where) {
  const std::size_t space = std::min(line.find(' '), line.size());
  std::string_view mark = line.substr(0, space);
  AtlasTemplate result;
  result.where = where;
  if (const std::size_t star = mark.find('*'); star != std::string_view::npos) {
    result.weight = parse_count(mark.substr(star + 1), kMaxWeight, where);
    mark = mark.substr(0, star);
  }
  result.held_out = mark == "held-out";
  if ((mark != "train" && !result.held_out) || space + 1 >= line.size() || result.weight == 0) {
    fail(ErrorCode::kFormat,
         "{}: expected \"train[*weight] text\" or \"held-out[*weight] text\", found \"{}\"", where, line);
  }
  result.parts = parse_parts(line.substr(space + 1), where);
  return result;
}

bool append_field(const Part& part, const AtlasSubjects& subjects, Rng& rng, std::string& out) {
  const auto subject = subjects.find(part.subject);
  if (subject == subjects.end()) return false;
  const auto field = subject->second.find(part.text);
  if (field == subject->second.end() || field->second.empty()) return false;
  if (!part.article.empty()) {
    const auto article = subject->second.find("article");
    const std::string_view kind = article == subject->second.end() ? "" : std::string_view(article->second);
    if (kind == "the" || (kind == "the?" && rng.below(2) == 0)) out += part.article + " ";
  }
  out += field->second;
  return true;
}

}  // namespace

std::string AtlasTemplate::longest_literal() const {
  std::string longest;
  for (const Part& part : parts) {
    if (part.kind == Part::Kind::kText && part.text.size() > longest.size()) longest = part.text;
  }
  return longest;
}

AtlasTemplates::AtlasTemplates(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  if (error || files.empty()) {
    fail(ErrorCode::kNotFound, "{}: expected a folder with template files *.txt, found {}", folder.string(),
         error ? error.message() : "none");
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    std::vector<AtlasTemplate>* group = nullptr;
    const std::string text = read_file(file, kMaxFileBytes);
    const std::vector<std::string> lines = split_cells(text, '\n');
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string& line = lines[i];
      const std::string where = fmt::format("{}:{}", file.string(), i + 1);
      if (line.empty() || line.front() == '#') continue;
      if (line.front() == '[' && line.back() == ']') {
        const std::string name = line.substr(1, line.size() - 2);
        if (has_group(name)) fail(ErrorCode::kFormat, "{}: group [{}] is defined twice", where, name);
        group = &groups_[name];
        continue;
      }
      if (!group) fail(ErrorCode::kFormat, "{}: expected a [group] first, found \"{}\"", where, line);
      group->push_back(parse_template(line, where));
    }
  }
  check();
}

bool AtlasTemplates::has_held_out(std::string_view group) const {
  const auto found = groups_.find(group);
  return found != groups_.end() &&
         std::any_of(found->second.begin(), found->second.end(), [](const auto& t) { return t.held_out; });
}

void AtlasTemplates::check() const {
  for (const auto& [name, alternatives] : groups_) {
    if (alternatives.empty())
      fail(ErrorCode::kFormat, "group [{}]: expected at least one template, found none", name);
    std::vector<std::string> path;
    check_group(name, path);
    for (const AtlasTemplate& item : alternatives) {
      for (const Part& part : item.parts) {
        const bool is_group = part.kind == Part::Kind::kGroup || part.kind == Part::Kind::kShuffle;
        if (is_group && !item.held_out && candidates(part.text, AtlasUse::kTrain).empty()) {
          fail(ErrorCode::kFormat, "{}: a training template uses [{}], which has none for training",
               item.where, part.text);
        }
      }
    }
  }
}

// Depth first; `path` holds the groups that are being expanded.
void AtlasTemplates::check_group(const std::string& group, std::vector<std::string>& path) const {
  if (std::find(path.begin(), path.end(), group) != path.end()) {
    fail(ErrorCode::kFormat, "group [{}] refers to itself", group);
  }
  path.push_back(group);
  for (const AtlasTemplate& item : groups_.find(group)->second) {
    for (const Part& part : item.parts) {
      if (part.kind != Part::Kind::kGroup && part.kind != Part::Kind::kShuffle) continue;
      if (!has_group(part.text))
        fail(ErrorCode::kFormat, "{}: there is no group [{}]", item.where, part.text);
      check_group(part.text, path);
    }
  }
  path.pop_back();
}

std::vector<const AtlasTemplate*> AtlasTemplates::candidates(std::string_view group, AtlasUse use) const {
  const auto found = groups_.find(group);
  require(found != groups_.end(), "unknown template group");
  const bool held_out = use == AtlasUse::kHeldOut && has_held_out(group);
  std::vector<const AtlasTemplate*> chosen;
  for (const AtlasTemplate& item : found->second) {
    if (item.held_out == held_out) chosen.push_back(&item);
  }
  return chosen;
}

bool AtlasTemplates::expand(std::string_view group, AtlasUse use, const AtlasSubjects& subjects, Rng& rng,
                            std::string& out) const {
  // Draw without replacement until one alternative can be filled.
  std::vector<const AtlasTemplate*> left = candidates(group, use);
  while (!left.empty()) {
    std::uint64_t total = 0;
    for (const AtlasTemplate* item : left) total += item->weight;
    std::uint64_t ticket = rng.below(total);
    std::size_t index = 0;
    while (ticket >= left[index]->weight) ticket -= left[index++]->weight;
    if (expand_template(*left[index], use, subjects, rng, out)) return true;
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(index));
  }
  return false;
}

bool AtlasTemplates::expand_template(const AtlasTemplate& chosen, AtlasUse use, const AtlasSubjects& subjects,
                                     Rng& rng, std::string& out) const {
  const std::size_t before = out.size();
  for (const Part& part : chosen.parts) {
    bool filled = true;
    switch (part.kind) {
      case Part::Kind::kText:
        out += part.text;
        break;
      case Part::Kind::kField:
        filled = append_field(part, subjects, rng, out);
        break;
      case Part::Kind::kGroup:
        filled = expand(part.text, use, subjects, rng, out);
        break;
      case Part::Kind::kShuffle:
        filled = expand_shuffled(part.text, use, subjects, rng, out);
        break;
    }
    if (!filled) {
      out.resize(before);
      return false;
    }
  }
  return true;
}

// Two to all of the group's alternatives, each at most once, in random order, separated by spaces.
bool AtlasTemplates::expand_shuffled(const std::string& group, AtlasUse use, const AtlasSubjects& subjects,
                                     Rng& rng, std::string& out) const {
  std::vector<std::string> sentences;
  for (const AtlasTemplate* item : candidates(group, use)) {
    std::string sentence;
    if (expand_template(*item, use, subjects, rng, sentence)) sentences.push_back(std::move(sentence));
  }
  if (sentences.size() < 2) return false;
  shuffle(sentences, rng);
  const std::size_t count = 2 + rng.below(sentences.size() - 1);
  for (std::size_t i = 0; i < count; ++i) out += (i == 0 ? "" : " ") + sentences[i];
  return true;
}

}  // namespace stem
