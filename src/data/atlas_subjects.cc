#include "data/atlas_subjects.h"

#include <cctype>

#include "core/error.h"

namespace stem {
namespace {

// "the USA=50|America=3" after the main name.
std::vector<AtlasName> parse_names(const AtlasTable& countries, std::size_t row) {
  std::vector<AtlasName> names = {{countries.cell(row, "name"), countries.cell(row, "article"), 100}};
  const std::string where = countries.where(row) + ": spellings";
  for (const std::string& item : split_cells(countries.cell(row, "spellings"), '|')) {
    const std::size_t equals = item.find('=');
    if (equals == 0 || equals == std::string::npos) {
      fail(ErrorCode::kFormat, "{}: expected Name=percent, found \"{}\"", where, item);
    }
    AtlasName name{item.substr(0, equals), "", parse_count(item.substr(equals + 1), 100, where)};
    if (name.text.rfind("the ", 0) == 0) {
      name.article = "the";
      name.text.erase(0, 4);
    }
    if (name.percent > names[0].percent)
      fail(ErrorCode::kFormat, "{}: expected at most 100 percent in all", where);
    names[0].percent -= name.percent;
    names.push_back(std::move(name));
  }
  return names;
}

// "Korea, South", "Emirates, United Arab".
std::string inverted_name(const std::string& name) {
  const std::size_t space = name.rfind(' ');
  return space == std::string::npos ? "" : name.substr(space + 1) + ", " + name.substr(0, space);
}

}  // namespace

std::vector<std::string> name_words(const std::string& name) {
  std::vector<std::string> words;
  for (const std::string& word : split_cells(name, ' ')) {
    if (!word.empty() && std::isupper(static_cast<unsigned char>(word.front()))) words.push_back(word);
  }
  return words;
}

AtlasTables::AtlasTables(const std::filesystem::path& source_dir) {
  const auto load = [&](const char* name, const std::vector<std::string>& columns) {
    tables_.emplace(name, AtlasTable(source_dir / (std::string(name) + ".tsv"), columns));
  };
  load("countries", {"name", "article", "spellings", "capital", "currency", "language", "continent",
                     "adjective", "demonym"});
  load("landmarks", {"landmark", "country", "town"});
  load("substances", {"substance", "verdict", "manner", "use", "dose", "after"});
  load("planets", {"planet", "article", "label", "shape", "journey", "colour", "moons"});
  load("occupations", {"occupation", "pronoun", "share", "task"});
  load("senses", {"word", "sense", "context", "ending"});

  const AtlasTable& countries = tables_.at("countries");
  std::map<std::string, std::size_t> country_rows;
  for (std::size_t row = 0; row < countries.size(); ++row) {
    country_names_.push_back(parse_names(countries, row));
    if (!country_rows.emplace(countries.cell(row, "name"), row).second) {
      fail(ErrorCode::kFormat, "{}: country \"{}\" is listed twice", countries.where(row),
           countries.cell(row, "name"));
    }
  }
  country_landmarks_.resize(countries.size());
  const AtlasTable& landmarks = tables_.at("landmarks");
  for (std::size_t row = 0; row < landmarks.size(); ++row) {
    const auto country = country_rows.find(landmarks.cell(row, "country"));
    if (country == country_rows.end()) {
      fail(ErrorCode::kFormat, "{}: country: expected a name of countries.tsv, found \"{}\"",
           landmarks.where(row), landmarks.cell(row, "country"));
    }
    country_landmarks_[country->second].push_back(landmarks.cell(row, "landmark"));
  }
  const AtlasTable& occupations = tables_.at("occupations");
  for (std::size_t row = 0; row < occupations.size(); ++row) {
    parse_count(occupations.cell(row, "share"), 100, occupations.where(row) + ": share");
    const std::string& pronoun = occupations.cell(row, "pronoun");
    if (pronoun != "he" && pronoun != "she") {
      fail(ErrorCode::kFormat, "{}: pronoun: expected he or she, found \"{}\"", occupations.where(row),
           pronoun);
    }
  }
}

const AtlasTable* AtlasTables::find(std::string_view name) const {
  const auto found = tables_.find(name);
  return found == tables_.end() ? nullptr : &found->second;
}

std::string AtlasTables::country_landmarks(std::size_t row) const {
  std::string joined;
  for (const std::string& landmark : country_landmarks_[row])
    joined += (joined.empty() ? "" : " and ") + landmark;
  return joined;
}

AtlasSubject AtlasTables::draw_country(std::size_t row, AtlasSubject fields, Rng& rng) const {
  const std::vector<AtlasName>& names = country_names_[row];
  std::size_t ticket = rng.below(100);
  std::size_t chosen = 0;
  while (ticket >= names[chosen].percent) ticket -= names[chosen++].percent;
  fields["X"] = names[chosen].text;
  fields["article"] = names[chosen].article;
  if (names.size() > 1)
    fields["other"] = names[(chosen + 1 + rng.below(names.size() - 1)) % names.size()].text;
  fields["landmarks"] = country_landmarks(row);
  if (const auto& landmarks = country_landmarks_[row]; !landmarks.empty()) {
    fields["landmark"] = landmarks[rng.below(landmarks.size())];
  }
  if (const std::vector<std::string> words = name_words(fields["X"]); words.size() > 1) {
    fields["part"] = words[rng.below(words.size())];
    fields["inverted"] = inverted_name(fields["X"]);
  }
  return fields;
}

AtlasSubject AtlasTables::draw(std::string_view table_name, std::size_t row, Rng& rng) const {
  const AtlasTable* table = find(table_name);
  require(table != nullptr, "unknown atlas table");
  AtlasSubject fields;
  for (const std::string& column : table->columns()) fields[column] = table->cell(row, column);
  if (table_name == "countries") return draw_country(row, std::move(fields), rng);
  if (table_name == "planets") fields["X"] = fields["planet"];
  if (table_name == "occupations") {
    const bool usual = rng.below(100) < parse_count(fields["share"], 100, table->where(row));
    const bool she = (fields["pronoun"] == "she") == usual;
    fields["pronoun"] = she ? "she" : "he";
  }
  return fields;
}

}  // namespace stem
