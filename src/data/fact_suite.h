// What a trained model should know and how to ask it: entities with their facts, score templates, special
// probes. The file format is docs/formats/facts.md.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace stem {

/// One name of one thing. Another name of the same thing is another entity with `same_as` set.
struct FactEntity {
  std::string kind;     ///< "country", "planet", "substance"
  std::string name;     ///< as it stands in a prompt: "Spain", "Czech Republic", "USA"
  std::string article;  ///< "the" or empty
  std::string same_as;  ///< main name if this is another spelling, else empty
  bool multi_word = false;
  std::vector<std::pair<std::string, std::string>> facts;  ///< relation -> answer, in file order

  /// The answer to `relation`, or null if this entity has none.
  const std::string* find(std::string_view relation) const;
};

/// A prompt with the slot `{X}` (the bare name) or `{the X}` (with its article). The answer follows after a
/// space.
struct FactTemplate {
  std::string id;
  std::string kind;      ///< kind of the entities that fit
  std::string relation;  ///< which fact is asked
  std::string text;
  bool seen = true;      ///< its wording occurs in training
  bool is_long = false;  ///< the name stands sentences before the question
};

/// One scripted question with an edit: `prompt` is answered by one of `before`; once the slot's rows read the
/// donors' by `rule`, by one of `after`.
struct FactProbe {
  std::string family;  ///< "swap", "continuation", "average", "belief", "attack", "bias", "sense"
  std::string id;
  std::string prompt;
  std::string slot;                 ///< word of the prompt whose rows are read elsewhere
  std::vector<std::string> donors;  ///< words whose records are read
  std::string rule;                 ///< "copy", "average", "exchange" or "none"
  std::vector<std::string> before;
  std::vector<std::string> after;
  bool seen = true;
};

struct FactSuite {
  std::vector<FactEntity> entities;
  std::vector<FactTemplate> templates;
  std::vector<FactProbe> probes;
};

/// The prompt that asks `score_template` about `entity`.
std::string fill_prompt(const FactTemplate& score_template, const FactEntity& entity);

/// JSON of format "stem-facts/1"; the same suite gives the same bytes.
std::string write_fact_suite(const FactSuite& suite);

/// Reads what write_fact_suite wrote. Errors: kFormat with `name`, the field, expected and found.
FactSuite parse_fact_suite(std::string_view text, std::string_view name);

}  // namespace stem
