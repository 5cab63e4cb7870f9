// Sentence templates of the atlas corpus: groups of alternatives with placeholders, each marked train or
// held-out. The file format is described in data/atlas/README.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/rng.h"

namespace stem {

/// What a document is about: field name -> text. The fields `X` (a name) and `article` ("", "the", or "the?",
/// which is used half of the time) make `{X}`, `{the X}` and `{The X}`.
using AtlasSubject = std::map<std::string, std::string, std::less<>>;

/// The subjects of one document by prefix: "" is the one it is about; "2", "same", "also" are others.
using AtlasSubjects = std::map<std::string, AtlasSubject, std::less<>>;

/// Which templates a document may use. kHeldOut takes held-out ones wherever a group has any.
enum class AtlasUse { kTrain, kHeldOut };

/// One alternative of a group.
struct AtlasTemplate {
  struct Part {
    enum class Kind { kText, kField, kGroup, kShuffle };
    Kind kind = Kind::kText;
    std::string text;     ///< literal text, field or group name
    std::string subject;  ///< prefix of a field: "" or "2", …
    std::string article;  ///< "", "the" or "The", for the field X
  };
  std::vector<Part> parts;
  bool held_out = false;
  std::uint64_t weight = 1;
  std::string where;  ///< "file:line"

  /// The longest run of literal text.
  std::string longest_literal() const;
};

/// All groups of a folder of template files.
class AtlasTemplates {
 public:
  /// Reads every `*.txt` of `folder`, in name order. Errors (kFormat, with file and line): a line that is
  /// neither a comment, a `[group]`, nor `train|held-out[*weight] text`; unbalanced braces; a group that does
  /// not exist or that refers to itself; a training template that needs a group without training templates.
  explicit AtlasTemplates(const std::filesystem::path& folder);

  bool has_group(std::string_view group) const { return groups_.find(group) != groups_.end(); }
  bool has_held_out(std::string_view group) const;
  const std::map<std::string, std::vector<AtlasTemplate>, std::less<>>& groups() const { return groups_; }

  /// Appends one random expansion of `group` to `out`. False, with `out` unchanged, if no alternative can be
  /// filled from the subjects' fields (an empty field cannot be filled).
  bool expand(std::string_view group, AtlasUse use, const AtlasSubjects& subjects, Rng& rng,
              std::string& out) const;

 private:
  void check() const;
  void check_group(const std::string& group, std::vector<std::string>& path) const;
  bool expand_template(const AtlasTemplate& chosen, AtlasUse use, const AtlasSubjects& subjects, Rng& rng,
                       std::string& out) const;
  bool expand_shuffled(const std::string& group, AtlasUse use, const AtlasSubjects& subjects, Rng& rng,
                       std::string& out) const;
  std::vector<const AtlasTemplate*> candidates(std::string_view group, AtlasUse use) const;

  std::map<std::string, std::vector<AtlasTemplate>, std::less<>> groups_;
};

}  // namespace stem
