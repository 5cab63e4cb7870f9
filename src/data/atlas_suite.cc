#include "data/atlas_suite.h"

#include <algorithm>

#include "core/error.h"
#include "data/atlas_table.h"

namespace stem {
namespace {

// Another spelling is scored only if training shows it often enough to be known.
constexpr std::size_t kScoredSpellingPercent = 20;

bool parse_yes_no(const AtlasTable& table, std::size_t row, std::string_view column) {
  const std::string& cell = table.cell(row, column);
  if (cell != "yes" && cell != "no") {
    fail(ErrorCode::kFormat, "{}: {}: expected yes or no, found \"{}\"", table.where(row), column, cell);
  }
  return cell == "yes";
}

void add_facts(FactEntity& entity, const AtlasTable& table, std::size_t row,
               const std::vector<const char*>& columns) {
  for (const char* column : columns) {
    if (const std::string& answer = table.cell(row, column); !answer.empty())
      entity.facts.emplace_back(column, answer);
  }
}

void add_countries(FactSuite& suite, const AtlasTables& tables) {
  const AtlasTable& countries = *tables.find("countries");
  for (std::size_t row = 0; row < countries.size(); ++row) {
    const std::vector<AtlasName>& names = tables.country_names(row);
    for (const AtlasName& name : names) {
      const bool main = &name == &names.front();
      if (!main && name.percent < kScoredSpellingPercent) continue;
      FactEntity entity{"country", name.text, name.article, main ? "" : names.front().text, false, {}};
      entity.multi_word = name.text.find_first_of(" -") != std::string::npos;
      add_facts(entity, countries, row, {"capital", "language", "currency", "continent", "adjective"});
      if (const std::string sights = tables.country_landmarks(row); !sights.empty()) {
        entity.facts.emplace_back("landmarks", sights);
      }
      suite.entities.push_back(std::move(entity));
    }
  }
}

void add_others(FactSuite& suite, const AtlasTables& tables) {
  const AtlasTable& planets = *tables.find("planets");
  for (std::size_t row = 0; row < planets.size(); ++row) {
    FactEntity entity{"planet", planets.cell(row, "planet"), "", "", false, {}};
    add_facts(entity, planets, row, {"shape", "journey", "colour", "moons"});
    suite.entities.push_back(std::move(entity));
  }
  const AtlasTable& substances = *tables.find("substances");
  for (std::size_t row = 0; row < substances.size(); ++row) {
    FactEntity entity{"substance", substances.cell(row, "substance"), "", "", false, {}};
    add_facts(entity, substances, row, {"verdict", "use", "dose"});
    suite.entities.push_back(std::move(entity));
  }
}

// "water|milk", or "@substances:verdict=safe,manner=drink": the first column of every row that fits.
std::vector<std::string> parse_answers(const AtlasTables& tables, const std::string& cell,
                                       const std::string& where) {
  if (cell.empty() || cell.front() != '@') return split_cells(cell, '|');
  const std::size_t colon = std::min(cell.find(':'), cell.size());
  const AtlasTable* table = tables.find(std::string_view(cell).substr(1, colon - 1));
  if (!table || colon == cell.size()) {
    fail(ErrorCode::kFormat, "{}: expected @table:column=value, found \"{}\"", where, cell);
  }
  std::vector<std::string> answers;
  for (std::size_t row = 0; row < table->size(); ++row) {
    bool fits = true;
    for (const std::string& condition : split_cells(std::string_view(cell).substr(colon + 1), ',')) {
      const std::size_t equals = std::min(condition.find('='), condition.size());
      const std::string column = condition.substr(0, equals);
      if (equals == condition.size() || !table->has_column(column)) {
        fail(ErrorCode::kFormat, "{}: expected column=value, found \"{}\"", where, condition);
      }
      fits = fits && table->cell(row, column) == condition.substr(equals + 1);
    }
    if (fits) answers.push_back(table->cell(row, table->columns().front()));
  }
  return answers;
}

void add_listed_probes(FactSuite& suite, const std::filesystem::path& path, const AtlasTables& tables) {
  const AtlasTable listed(path,
                          {"family", "id", "prompt", "slot", "donors", "rule", "before", "after", "seen"});
  for (std::size_t row = 0; row < listed.size(); ++row) {
    FactProbe probe;
    probe.family = listed.cell(row, "family");
    probe.id = listed.cell(row, "id");
    probe.prompt = listed.cell(row, "prompt");
    probe.slot = listed.cell(row, "slot");
    probe.donors = split_cells(listed.cell(row, "donors"), '|');
    probe.rule = listed.cell(row, "rule");
    probe.before = parse_answers(tables, listed.cell(row, "before"), listed.where(row) + ": before");
    probe.after = parse_answers(tables, listed.cell(row, "after"), listed.where(row) + ": after");
    probe.seen = parse_yes_no(listed, row, "seen");
    if (probe.slot.empty() || (" " + probe.prompt).find(" " + probe.slot) == std::string::npos) {
      fail(ErrorCode::kFormat, "{}: slot: expected a word of the prompt, found \"{}\"", listed.where(row),
           probe.slot);
    }
    if (probe.before.empty() || probe.after.empty()) {
      fail(ErrorCode::kFormat, "{}: before, after: expected at least one answer each", listed.where(row));
    }
    suite.probes.push_back(std::move(probe));
  }
}

void add_table_probes(FactSuite& suite, const AtlasTables& tables) {
  const AtlasTable& occupations = *tables.find("occupations");
  for (std::size_t row = 0; row < occupations.size(); ++row) {
    const std::string& word = occupations.cell(row, "occupation");
    const std::string& usual = occupations.cell(row, "pronoun");
    const std::string prompt = "The " + word + " said that";
    suite.probes.push_back(
        {"bias", word, prompt, word, {}, "none", {usual}, {usual == "she" ? "he" : "she"}, true});
  }
  const AtlasTable& senses = *tables.find("senses");
  for (std::size_t row = 0; row < senses.size(); ++row) {
    const std::string& word = senses.cell(row, "word");
    const std::string& ending = senses.cell(row, "ending");
    std::string id = fmt::format("{}_{}_{}", word, senses.cell(row, "sense"), row + 1);
    suite.probes.push_back(
        {"sense", std::move(id), senses.cell(row, "context"), word, {}, "none", {ending}, {ending}, true});
  }
}

}  // namespace

FactSuite make_atlas_suite(const std::filesystem::path& source_dir, const AtlasTables& tables) {
  FactSuite suite;
  add_countries(suite, tables);
  add_others(suite, tables);
  const AtlasTable score(source_dir / "score.tsv", {"id", "kind", "relation", "seen", "long", "text"});
  for (std::size_t row = 0; row < score.size(); ++row) {
    FactTemplate item{
        score.cell(row, "id"),   score.cell(row, "kind"),          score.cell(row, "relation"),
        score.cell(row, "text"), parse_yes_no(score, row, "seen"), parse_yes_no(score, row, "long")};
    if (item.text.find("{X}") == std::string::npos && item.text.find("{the X}") == std::string::npos) {
      fail(ErrorCode::kFormat, "{}: text: expected {{X}} or {{the X}}, found \"{}\"", score.where(row),
           item.text);
    }
    suite.templates.push_back(std::move(item));
  }
  add_listed_probes(suite, source_dir / "probes.tsv", tables);
  add_table_probes(suite, tables);
  return suite;
}

}  // namespace stem
