#include "data/fact_suite.h"

#include "core/error.h"
#include "io/json.h"

namespace stem {
namespace {

constexpr std::string_view kFormatName = "stem-facts/1";
constexpr std::size_t kMaxEntries = 1'000'000;

std::vector<std::string> get_strings(const Json& json, std::string_view key, std::string_view name) {
  std::vector<std::string> strings;
  for (const Json& item : get_array(json, key, name, kMaxEntries)) {
    if (!item.is_string()) {
      fail(ErrorCode::kFormat, "{}: {}: expected an array of strings, found {}", name, key, shown(item));
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

}  // namespace

const std::string* FactEntity::find(std::string_view relation) const {
  for (const auto& [key, answer] : facts) {
    if (key == relation) return &answer;
  }
  return nullptr;
}

std::string fill_prompt(const FactTemplate& score_template, const FactEntity& entity) {
  const auto replace = [](std::string& text, std::string_view from, const std::string& to) {
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
      text.replace(at, from.size(), to);
    }
  };
  std::string prompt = score_template.text;
  replace(prompt, "{the X}", entity.article.empty() ? entity.name : entity.article + " " + entity.name);
  replace(prompt, "{X}", entity.name);
  return prompt;
}

std::string write_fact_suite(const FactSuite& suite) {
  Json json;
  json["format"] = kFormatName;
  json["entities"] = Json::array();
  for (const FactEntity& entity : suite.entities) {
    Json facts = Json::object();
    for (const auto& [relation, answer] : entity.facts) facts[relation] = answer;
    Json item = {{"kind", entity.kind}, {"name", entity.name}};
    if (!entity.article.empty()) item["article"] = entity.article;
    if (!entity.same_as.empty()) item["same_as"] = entity.same_as;
    item["multi_word"] = entity.multi_word;
    item["facts"] = facts;
    json["entities"].push_back(item);
  }
  json["templates"] = Json::array();
  for (const FactTemplate& item : suite.templates) {
    json["templates"].push_back({{"id", item.id},
                                 {"kind", item.kind},
                                 {"relation", item.relation},
                                 {"seen", item.seen},
                                 {"long", item.is_long},
                                 {"text", item.text}});
  }
  json["probes"] = Json::array();
  for (const FactProbe& probe : suite.probes) {
    json["probes"].push_back({{"family", probe.family},
                              {"id", probe.id},
                              {"prompt", probe.prompt},
                              {"slot", probe.slot},
                              {"donors", probe.donors},
                              {"rule", probe.rule},
                              {"before", probe.before},
                              {"after", probe.after},
                              {"seen", probe.seen}});
  }
  return dump_json(json);
}

FactSuite parse_fact_suite(std::string_view text, std::string_view name) {
  const Json json = parse_json(text, name);
  const std::string format = get_string(json, "format", name);
  if (format != kFormatName) {
    fail(ErrorCode::kFormat, "{}: format: expected \"{}\", found \"{}\"", name, kFormatName, format);
  }
  FactSuite suite;
  for (const Json& item : get_array(json, "entities", name, kMaxEntries)) {
    FactEntity entity;
    entity.kind = get_string(item, "kind", name);
    entity.name = get_string(item, "name", name);
    entity.article = get_string_or(item, "article", name, "");
    entity.same_as = get_string_or(item, "same_as", name, "");
    entity.multi_word = get_bool(item, "multi_word", name);
    for (const auto& [relation, answer] : get_object(item, "facts", name, kMaxEntries).items()) {
      if (!answer.is_string()) {
        fail(ErrorCode::kFormat, "{}: facts: {}: expected a string, found {}", name, relation, shown(answer));
      }
      entity.facts.emplace_back(relation, answer.get<std::string>());
    }
    suite.entities.push_back(std::move(entity));
  }
  for (const Json& item : get_array(json, "templates", name, kMaxEntries)) {
    FactTemplate score_template;
    score_template.id = get_string(item, "id", name);
    score_template.kind = get_string(item, "kind", name);
    score_template.relation = get_string(item, "relation", name);
    score_template.text = get_string(item, "text", name);
    score_template.seen = get_bool(item, "seen", name);
    score_template.is_long = get_bool(item, "long", name);
    if (score_template.text.find("{X}") == std::string::npos &&
        score_template.text.find("{the X}") == std::string::npos) {
      fail(ErrorCode::kFormat, "{}: templates: {}: text: expected {{X}} or {{the X}}, found \"{}\"", name,
           score_template.id, score_template.text);
    }
    suite.templates.push_back(std::move(score_template));
  }
  for (const Json& item : get_array(json, "probes", name, kMaxEntries)) {
    FactProbe probe;
    probe.family = get_string(item, "family", name);
    probe.id = get_string(item, "id", name);
    probe.prompt = get_string(item, "prompt", name);
    probe.slot = get_string(item, "slot", name);
    probe.donors = get_strings(item, "donors", name);
    probe.rule = get_string(item, "rule", name);
    probe.before = get_strings(item, "before", name);
    probe.after = get_strings(item, "after", name);
    probe.seen = get_bool(item, "seen", name);
    suite.probes.push_back(std::move(probe));
  }
  return suite;
}

}  // namespace stem
