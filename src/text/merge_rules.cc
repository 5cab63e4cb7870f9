#include "text/merge_rules.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "core/error.h"
#include "io/json.h"

namespace stem {
namespace {

bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
}

}  // namespace

MergeRule make_merge(const Vocabulary& vocabulary, std::string_view left, std::string_view right,
                     std::size_t index, const std::string& name) {
  const auto find = [&](const std::string& written) {
    const std::optional<std::int32_t> id = vocabulary.find_written(written);
    if (!id) {
      fail(ErrorCode::kFormat, "{}: merge {}: {} is not in the vocabulary", name, index, shown(written));
    }
    return *id;
  };
  const std::string a(left), b(right);
  return {find(a), find(b), find(a + b)};
}

MergeRule parse_merge(const Vocabulary& vocabulary, std::string_view line, std::size_t index,
                      const std::string& name) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    fail(ErrorCode::kFormat, "{}: merge {}: expected two tokens with a space between them, found {}", name,
         index, shown(std::string(line)));
  }
  return make_merge(vocabulary, line.substr(0, space), line.substr(space + 1), index, name);
}

std::vector<MergeRule> merges_from_scores(const Vocabulary& vocabulary, std::span<const float> scores,
                                          const std::vector<bool>& joins, const std::string& name) {
  struct Candidate {
    MergeRule rule;
    float score;
    std::size_t left, right;  // characters
  };
  const auto part = [&](std::string_view written) {
    const std::optional<std::int32_t> id = vocabulary.find_written(written);
    return id && joins[static_cast<std::size_t>(*id)] ? *id : -1;
  };
  std::vector<Candidate> found;
  for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.contains(id) || !joins[static_cast<std::size_t>(id)]) continue;
    const std::string token = vocabulary.written(id);
    if (token.size() > kMaxJoinedBytes) continue;
    const auto characters =
        static_cast<std::size_t>(std::count_if(token.begin(), token.end(), starts_character));
    std::size_t before = 0;
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      if (!starts_character(token[cut])) continue;
      ++before;
      const std::int32_t left = part(std::string_view(token).substr(0, cut));
      if (left < 0) continue;
      const std::int32_t right = part(std::string_view(token).substr(cut));
      if (right < 0) continue;
      if (found.size() == kMaxMerges) {
        fail(ErrorCode::kFormat, "{}: the tokens join in more than {} ways", name, kMaxMerges);
      }
      found.push_back({{left, right, id}, scores[static_cast<std::size_t>(id)], before, characters - before});
    }
  }
  std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    if (a.score != b.score) return a.score > b.score;
    if (a.left != b.left) return a.left > b.left;
    if (a.right != b.right) return a.right > b.right;
    return std::tie(a.rule.result, a.rule.left, a.rule.right) <
           std::tie(b.rule.result, b.rule.left, b.rule.right);
  });
  std::vector<MergeRule> merges;
  merges.reserve(found.size());
  for (const Candidate& candidate : found) merges.push_back(candidate.rule);
  return merges;
}

}  // namespace stem
