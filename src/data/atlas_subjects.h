// From the rows of the atlas tables to what templates can say about them.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/rng.h"
#include "data/atlas_table.h"
#include "data/atlas_templates.h"

namespace stem {

/// One way to write a country's name.
struct AtlasName {
  std::string text;     ///< "USA"
  std::string article;  ///< "the" or empty
  std::size_t percent = 0;
};

/// All tables of data/atlas, cross-checked: a landmark's country exists, shares are percentages.
class AtlasTables {
 public:
  explicit AtlasTables(const std::filesystem::path& source_dir);

  /// "countries", "landmarks", "substances", "planets", "occupations" or "senses"; null for another name.
  const AtlasTable* find(std::string_view name) const;
  /// The main name first; percentages add up to 100.
  const std::vector<AtlasName>& country_names(std::size_t row) const { return country_names_[row]; }
  /// Joined with " and "; empty if there are none.
  std::string country_landmarks(std::size_t row) const;

  /// The fields of row `row` of table `table` for one document: cells, and what is drawn anew for each
  /// document (a name, a landmark, a word of the name, a pronoun by its share).
  AtlasSubject draw(std::string_view table, std::size_t row, Rng& rng) const;

 private:
  AtlasSubject draw_country(std::size_t row, AtlasSubject fields, Rng& rng) const;

  std::map<std::string, AtlasTable, std::less<>> tables_;
  std::vector<std::vector<AtlasName>> country_names_;
  std::vector<std::vector<std::string>> country_landmarks_;
};

/// Words of a name that begin with a capital: "Bosnia", "Herzegovina".
std::vector<std::string> name_words(const std::string& name);

}  // namespace stem
