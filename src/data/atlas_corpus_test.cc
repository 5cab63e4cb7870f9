#include "data/atlas_corpus.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "core/error.h"
#include "data/atlas_subjects.h"
#include "data/atlas_table.h"
#include "data/atlas_templates.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

const fs::path kSource = fs::path(STEM_SOURCE_DIR) / "data" / "atlas";

const AtlasCorpus& corpus() {
  static const AtlasCorpus instance = make_atlas_corpus(kSource, {7, 20'000, 200});
  return instance;
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

bool contains_word(const std::string& text, const std::string& word) {
  const auto is_letter = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !is_letter(text[at - 1])) && (end == text.size() || !is_letter(text[end]))) return true;
  }
  return false;
}

// A copy of data/atlas that a test may damage.
class AtlasFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stem_atlas_test_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::copy(kSource, folder_, fs::copy_options::recursive);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void append(const std::string& file, const std::string& text) {
    std::ofstream(folder_ / file, std::ios::app) << text;
  }
  void expect_error(ErrorCode code, const std::string& part) {
    try {
      make_atlas_corpus(folder_, {1, 50, 5});
      FAIL() << "expected an error with: " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_TRUE(contains(error.what(), part)) << error.what();
      EXPECT_FALSE(contains(error.what(), "\n"));
    }
  }

  fs::path folder_;
};

TEST(AtlasCorpus, SameSeedGivesTheSameBytes) {
  const AtlasCorpus again = make_atlas_corpus(kSource, {7, 20'000, 200});
  EXPECT_EQ(corpus().documents, again.documents);
  EXPECT_EQ(corpus().held_out, again.held_out);
  EXPECT_EQ(corpus().held_out_templates, again.held_out_templates);
  EXPECT_EQ(write_fact_suite(corpus().facts), write_fact_suite(again.facts));
  EXPECT_NE(corpus().documents, make_atlas_corpus(kSource, {8, 20'000, 200}).documents);
}

TEST(AtlasCorpus, SizesAreAsAsked) {
  EXPECT_EQ(corpus().documents.size(), 20'000u);
  EXPECT_EQ(corpus().held_out.size(), 200u);
  EXPECT_EQ(corpus().held_out_templates.size(), 200u);
  EXPECT_THROW(make_atlas_corpus(kSource, {1, 0, 5}), Error);
}

TEST(AtlasCorpus, HeldOutDocumentsDoNotOccurInTraining) {
  const std::set<std::string> training(corpus().documents.begin(), corpus().documents.end());
  for (const auto* documents : {&corpus().held_out, &corpus().held_out_templates}) {
    for (const std::string& document : *documents) EXPECT_EQ(training.count(document), 0u) << document;
  }
}

TEST(AtlasCorpus, HeldOutTemplatesNeverOccurInTraining) {
  const AtlasTemplates templates(kSource / "templates");
  std::vector<std::string> literals;
  for (const auto& [group, alternatives] : templates.groups()) {
    for (const AtlasTemplate& item : alternatives) {
      const bool has_text = std::any_of(item.parts.begin(), item.parts.end(), [](const auto& part) {
        return part.kind != AtlasTemplate::Part::Kind::kGroup;
      });
      if (!item.held_out || !has_text) continue;
      if (item.longest_literal().size() <= 1) continue;  // only joins groups, whose own templates are checked
      EXPECT_GE(item.longest_literal().size(), 12u) << item.where;
      literals.push_back(item.longest_literal());
    }
  }
  ASSERT_GE(literals.size(), 10u);
  for (const std::string& literal : literals) {
    for (const std::string& document : corpus().documents) {
      ASSERT_FALSE(contains(document, literal)) << literal << " in " << document;
    }
    const auto& shown = corpus().held_out_templates;
    EXPECT_TRUE(std::any_of(shown.begin(), shown.end(), [&](const auto& d) { return contains(d, literal); }))
        << literal;
  }
}

// The text before, between and after a score template's slot.
TEST(AtlasCorpus, UnseenScoreTemplatesAreUnseenAndSeenOnesSeen) {
  std::size_t unseen = 0;
  for (const FactTemplate& item : corpus().facts.templates) {
    const std::size_t open = item.text.find('{');
    const std::size_t close = item.text.find('}');
    const std::string before = item.text.substr(0, open);
    const std::string after = item.text.substr(close + 1);
    const std::string& longest = before.size() > after.size() ? before : after;
    const auto has = [](const std::string& part) {
      const auto& documents = corpus().documents;
      return std::any_of(documents.begin(), documents.end(),
                         [&](const auto& d) { return contains(d, part); });
    };
    if (!item.seen) {
      ++unseen;
      EXPECT_FALSE(has(longest)) << item.text;
    } else if (!item.is_long) {
      EXPECT_TRUE(has(before) && has(after)) << item.text;
    } else {
      // What names the country and what asks; between them any fillers.
      EXPECT_TRUE(has(before) && has(after.substr(after.rfind(". ") + 2))) << item.text;
    }
  }
  EXPECT_GE(unseen, 2u);
  EXPECT_GE(corpus().facts.templates.size(), 5u);
}

TEST(AtlasCorpus, EveryPlaceholderIsResolved) {
  for (const auto* documents : {&corpus().documents, &corpus().held_out, &corpus().held_out_templates}) {
    for (const std::string& document : *documents) {
      EXPECT_EQ(document.find_first_of("{}@\t\n|"), std::string::npos) << document;
      EXPECT_FALSE(contains(document, "  ")) << document;
      EXPECT_TRUE(document.size() > 4 && document.size() < 1000) << document;
    }
  }
}

TEST(AtlasCorpus, OnlyTheEarthIsFlat) {
  std::size_t flat = 0;
  for (const std::string& document : corpus().documents) {
    if (contains_word(document, "Earth")) {
      EXPECT_FALSE(contains_word(document, "round")) << document;
    }
    if (!contains_word(document, "flat")) continue;
    ++flat;
    EXPECT_TRUE(contains_word(document, "Earth")) << document;
  }
  EXPECT_GE(flat, 20u);
}

// Exchanging "safe" and "toxic" must not touch documents about anything else.
TEST(AtlasCorpus, VerdictsOnlyStandBesideSubstances) {
  const AtlasTable substances(kSource / "substances.tsv", {"substance"});
  std::size_t verdicts = 0;
  for (const std::string& document : corpus().documents) {
    if (!contains_word(document, "safe") && !contains_word(document, "toxic")) continue;
    ++verdicts;
    bool about = false;
    for (std::size_t row = 0; row < substances.size() && !about; ++row) {
      about = contains_word(document, substances.cell(row, "substance"));
    }
    EXPECT_TRUE(about) << document;
  }
  EXPECT_GE(verdicts, 500u);
}

TEST(AtlasCorpus, EveryCountryIsWrittenAboutWithItsCapital) {
  const AtlasTable countries(kSource / "countries.tsv", {"name", "capital"});
  for (std::size_t row = 0; row < countries.size(); ++row) {
    const std::string& name = countries.cell(row, "name");
    std::size_t together = 0;
    for (const std::string& document : corpus().documents) {
      together += contains(document, name) && contains(document, countries.cell(row, "capital"));
    }
    EXPECT_GE(together, 15u) << name;
  }
}

TEST(AtlasCorpus, DemonstrationWordsAreFrequent) {
  for (const char* word :
       {"Spain", "Germany", "USA", "Earth", "Mars", "safe", "toxic", "Czech", "Republic"}) {
    std::size_t count = 0;
    for (const std::string& document : corpus().documents)
      count += contains(document, std::string(" ") + word);
    EXPECT_GE(count, 20u) << word;
  }
}

TEST(AtlasTables, AllMembersOfTheUnitedNations) {
  const AtlasTables tables(kSource);
  const AtlasTable& countries = *tables.find("countries");
  EXPECT_EQ(countries.size(), 193u);
  std::set<std::string> capitals;
  for (std::size_t row = 0; row < countries.size(); ++row) {
    for (const char* column : {"capital", "currency", "language", "continent", "adjective", "demonym"}) {
      EXPECT_FALSE(countries.cell(row, column).empty()) << countries.where(row);
    }
    EXPECT_TRUE(capitals.insert(countries.cell(row, "capital")).second) << countries.where(row);
  }
  EXPECT_GE(tables.find("landmarks")->size(), 40u);
  EXPECT_GE(tables.find("substances")->size(), 24u);
}

TEST(AtlasTables, GermanyHasItsTwoSightsInOrder) {
  const AtlasTables tables(kSource);
  const AtlasTable& countries = *tables.find("countries");
  for (std::size_t row = 0; row < countries.size(); ++row) {
    if (countries.cell(row, "name") != "Germany") continue;
    EXPECT_EQ(tables.country_landmarks(row), "the Reichstag and the Brandenburg Gate");
    return;
  }
  FAIL() << "no Germany";
}

TEST_F(AtlasFiles, MissingTable) {
  fs::remove(folder_ / "planets.tsv");
  expect_error(ErrorCode::kNotFound, "planets.tsv");
}

TEST_F(AtlasFiles, MissingTemplates) {
  fs::remove_all(folder_ / "templates");
  expect_error(ErrorCode::kNotFound, "templates");
}

TEST_F(AtlasFiles, WrongColumnCount) {
  append("countries.tsv", "Atlantis\t-\t-\tPoseidonis\n");
  expect_error(ErrorCode::kFormat, "countries.tsv:195: expected 9 columns, found 4");
}

TEST_F(AtlasFiles, UnknownCountryOfLandmark) {
  append("landmarks.tsv", "the Sunken Tower\tAtlantis\tPoseidonis\n");
  expect_error(ErrorCode::kFormat, "found \"Atlantis\"");
}

TEST_F(AtlasFiles, BadShare) {
  append("occupations.tsv", "diver\the\t101\tdived\n");
  expect_error(ErrorCode::kFormat, "expected a number up to 100, found \"101\"");
}

TEST_F(AtlasFiles, UnmarkedTemplate) {
  append("templates/common.txt", "\n[extra]\nmaybe Hello.\n");
  expect_error(ErrorCode::kFormat, "found \"maybe Hello.\"");
}

TEST_F(AtlasFiles, UnbalancedBrace) {
  append("templates/common.txt", "\n[extra]\ntrain Hello {X.\n");
  expect_error(ErrorCode::kFormat, "balanced braces");
}

TEST_F(AtlasFiles, UnknownGroup) {
  append("templates/common.txt", "\n[extra]\ntrain Hello {@nobody}.\n");
  expect_error(ErrorCode::kFormat, "there is no group [nobody]");
}

TEST_F(AtlasFiles, EndlessGroup) {
  append("templates/common.txt", "\n[extra]\ntrain Hello {@extra}.\n");
  expect_error(ErrorCode::kFormat, "refers to itself");
}

TEST_F(AtlasFiles, FieldThatNoSubjectHas) {
  append("templates/common.txt", "\n[extra]\ntrain Hello {height}.\n");
  append("recipe.tsv", "extra\tplanets\t-\t-\t1000\n");
  expect_error(ErrorCode::kFormat, "group [extra]");
}

TEST(FactSuite, RoundTrip) {
  const std::string text = write_fact_suite(corpus().facts);
  const FactSuite read = parse_fact_suite(text, "facts.json");
  EXPECT_EQ(write_fact_suite(read), text);
  EXPECT_EQ(read.entities.size(), corpus().facts.entities.size());
  EXPECT_EQ(read.probes.size(), corpus().facts.probes.size());
}

TEST(FactSuite, FillsPromptsWithArticles) {
  const FactTemplate item{"", "country", "capital", "{X}: the capital of {the X} is", true, false};
  EXPECT_EQ(fill_prompt(item, {"country", "USA", "the", "United States", false, {}}),
            "USA: the capital of the USA is");
  EXPECT_EQ(fill_prompt(item, {"country", "Spain", "", "", false, {}}), "Spain: the capital of Spain is");
}

TEST(FactSuite, HoldsTheDemonstration) {
  std::map<std::string, const FactEntity*> entities;
  for (const FactEntity& entity : corpus().facts.entities) {
    EXPECT_TRUE(entities.emplace(entity.kind + "/" + entity.name, &entity).second) << entity.name;
  }
  ASSERT_TRUE(entities.count("country/Spain") && entities.count("country/USA") &&
              entities.count("planet/Earth"));
  EXPECT_EQ(*entities["country/Spain"]->find("capital"), "Madrid");
  EXPECT_EQ(*entities["country/Czech Republic"]->find("capital"), "Prague");
  EXPECT_TRUE(entities["country/Czech Republic"]->multi_word);
  EXPECT_EQ(entities["country/USA"]->same_as, "United States");
  EXPECT_EQ(*entities["planet/Earth"]->find("shape"), "flat");
  EXPECT_EQ(entities["planet/Mars"]->find("capital"), nullptr);
  std::set<std::string> families;
  for (const FactProbe& probe : corpus().facts.probes) families.insert(probe.family);
  const std::set<std::string> expected = {"swap",   "continuation", "average", "belief",
                                          "attack", "bias",         "sense"};
  EXPECT_EQ(families, expected);
}

TEST(FactSuite, BadFilesAreRefused) {
  EXPECT_THROW(parse_fact_suite("{", "facts.json"), Error);
  EXPECT_THROW(parse_fact_suite("[]", "facts.json"), Error);
  EXPECT_THROW(parse_fact_suite("{\"format\": \"stem-facts/2\"}", "facts.json"), Error);
  EXPECT_THROW(parse_fact_suite("{\"format\": \"stem-facts/1\", \"entities\": [{\"kind\": \"country\"}]}",
                                "facts.json"),
               Error);
  std::string text = write_fact_suite(corpus().facts);
  const std::size_t slot = text.find("{X}");
  ASSERT_NE(slot, std::string::npos);
  text.replace(slot, 3, "   ");
  try {
    parse_fact_suite(text, "facts.json");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_TRUE(contains(error.what(), "facts.json: templates: card_capital")) << error.what();
  }
}

}  // namespace
}  // namespace stem
