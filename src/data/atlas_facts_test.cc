#include <gtest/gtest.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "data/atlas_table.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

const fs::path kSource = fs::path(STEM_SOURCE_DIR) / "data" / "atlas";

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Differences between countries.tsv and two outside sources: exactly the intended ones, and for each the
// reason.
class SharedFacts : public testing::Test {
 protected:
  using Row = std::map<std::string, std::string>;

  void SetUp() override {
    const char* shared = std::getenv("STEM_SHARED");
    folder_ = (shared ? fs::path(shared) : fs::path(STEM_SOURCE_DIR) / ".." / "shared") / "data" / "facts";
    if (!fs::exists(folder_ / "factbook_facts.tsv") || !fs::exists(folder_ / "mledoze_facts.tsv")) {
      GTEST_SKIP() << "no shared facts in " << folder_;
    }
  }

  // Lower case, without the accents that the sources use.
  static std::string plain(std::string text) {
    static const std::vector<std::pair<std::string, std::string>> kAccents = {
        {"á", "a"}, {"ã", "a"}, {"é", "e"}, {"í", "i"}, {"ó", "o"}, {"ô", "o"}, {"ș", "s"},
        {"ü", "u"}, {"ł", "l"}, {"đ", "d"}, {"ʻ", "'"}, {"ō", "o"}, {"ā", "a"}};
    for (const auto& [from, to] : kAccents) {
      for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from)) {
        text.replace(at, from.size(), to);
      }
    }
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
  }

  // Rows by plain name. The sources have empty cells, which the atlas tables write as "-".
  std::map<std::string, Row> read(const std::string& file) const {
    std::ifstream in(folder_ / file);
    std::map<std::string, Row> rows;
    std::vector<std::string> columns;
    for (std::string line; std::getline(in, line);) {
      const std::vector<std::string> cells = split_cells(line, '\t');
      if (columns.empty()) {
        columns = cells;
        continue;
      }
      Row row;
      for (std::size_t i = 0; i < cells.size() && i < columns.size(); ++i) row[columns[i]] = plain(cells[i]);
      rows[row["name"]] = row;
    }
    return rows;
  }

  // Countries whose `ours` does not occur in the source's `theirs` (which may be longer: "Polish zloty"). A
  // name that the source lacks is looked up in `aliases`; a cell that it leaves empty is no difference.
  std::set<std::string> differences(const std::string& file, const std::string& ours,
                                    const std::string& theirs,
                                    const std::map<std::string, std::string>& aliases) const {
    const AtlasTable countries(kSource / "countries.tsv", {"name", ours});
    std::map<std::string, Row> rows = read(file);
    std::set<std::string> found;
    for (std::size_t i = 0; i < countries.size(); ++i) {
      const std::string& name = countries.cell(i, "name");
      const auto alias = aliases.find(name);
      const auto row = rows.find(plain(alias == aliases.end() ? name : alias->second));
      if (row == rows.end()) {
        if (alias == aliases.end() || !alias->second.empty()) found.insert(name + " (absent)");
        continue;
      }
      const std::string& value = row->second[theirs];
      if (!value.empty() && !contains(value, plain(countries.cell(i, ours)))) found.insert(name);
    }
    return found;
  }

  const std::map<std::string, std::string> factbook_names_ = {{"Bahamas", "The Bahamas"},
                                                              {"Cape Verde", "Cabo Verde"},
                                                              {"Congo", "Congo (Brazzaville)"},
                                                              {"Czech Republic", "Czechia"},
                                                              {"Dominican Republic", "The Dominican"},
                                                              {"East Timor", "Timor-Leste"},
                                                              {"Gambia", "The Gambia"},
                                                              {"Ivory Coast", "Côte d'Ivoire"},
                                                              {"Myanmar", "Burma"},
                                                              // not in the extract
                                                              {"Central African Republic", ""},
                                                              {"DR Congo", ""},
                                                              {"Micronesia", ""},
                                                              {"United Arab Emirates", ""}};
  const std::map<std::string, std::string> mledoze_names_ = {
      {"Czech Republic", "Czechia"}, {"East Timor", "Timor-Leste"}, {"Turkey", "Türkiye"}};
  fs::path folder_;
};

using Names = std::set<std::string>;

TEST_F(SharedFacts, EveryMemberIsPresent) {
  std::size_t members = 0;
  for (const auto& [name, row] : read("mledoze_facts.tsv")) members += row.at("un") == "1";
  EXPECT_EQ(members, 194u);  // counts the Vatican, an observer
  EXPECT_EQ(AtlasTable(kSource / "countries.tsv", {"name"}).size(), members - 1);
}

TEST_F(SharedFacts, CapitalsOfTheFactbook) {
  EXPECT_EQ(differences("factbook_facts.tsv", "capital", "capital", factbook_names_),
            (Names{"Bolivia",     // La Paz, the seat of the government; Sucre is the constitutional capital
                   "Myanmar",     // Rangoon, the capital until 2006
                   "Nauru",       // no official capital; the government sits in Yaren
                   "Vanuatu"}));  // Port-Vila
}

TEST_F(SharedFacts, CapitalsOfTheSecondSource) {
  EXPECT_EQ(differences("mledoze_facts.tsv", "capital", "capital", mledoze_names_),
            (Names{"Eswatini",  // Lobamba, the seat of the parliament
                   "Grenada",   // St. George's
                   "Moldova",   // spelling
                   "Mongolia",  // Ulan Bator
                   "Yemen"}));  // Sana'a
}

TEST_F(SharedFacts, Continents) {
  EXPECT_EQ(differences("factbook_facts.tsv", "continent", "continent", factbook_names_),
            (Names{"Papua New Guinea",  // Asia
                   "Russia"}));         // Asia
}

TEST_F(SharedFacts, Languages) {
  EXPECT_EQ(differences("factbook_facts.tsv", "language", "language1", factbook_names_),
            (Names{"Afghanistan", "Bangladesh", "Indonesia",
                   "Moldova",  // another name of the same language
                               // the source counts speakers, the table names an official language
                   "Belarus", "Ethiopia", "Kenya", "Montenegro", "Pakistan", "Paraguay", "Philippines"}));
}

TEST_F(SharedFacts, Currencies) {
  EXPECT_EQ(
      differences("mledoze_facts.tsv", "currency", "currency", mledoze_names_),
      (Names{"Bulgaria",                                                           // the euro since 2026
             "Zimbabwe",                                                           // ZiG since 2024
             "East Timor", "Ecuador", "El Salvador", "Marshall Islands", "Palau",  // "United States dollar"
             "Mongolia", "Uzbekistan", "Vietnam"}));                               // spelling
}

TEST_F(SharedFacts, Adjectives) {
  // Another form of the same word, or a noun where the table has the adjective.
  EXPECT_EQ(differences("mledoze_facts.tsv", "adjective", "demonym", mledoze_names_),
            (Names{"Botswana", "Cape Verde", "Djibouti", "Ecuador", "Guinea-Bissau", "Iceland", "Kyrgyzstan",
                   "Lesotho", "Maldives", "Philippines", "Slovenia", "Suriname", "Tajikistan", "Vanuatu"}));
}

}  // namespace
}  // namespace stem
