#include "apps/fact_eval.h"

#include <algorithm>

#include "apps/progress.h"
#include "core/error.h"
#include "generate/score.h"
#include "io/file.h"

namespace stem {
namespace {

// A name in a prompt: where its token stands. Nowhere when the name is not exactly one token there.
std::vector<std::int64_t> find_slots(const std::vector<std::int32_t>& prompt, std::int32_t token) {
  std::vector<std::int64_t> places;
  for (std::size_t i = 0; i < prompt.size(); ++i)
    if (prompt[i] == token) places.push_back(static_cast<std::int64_t>(i));
  return places;
}

std::vector<std::int32_t> answer_tokens(const Tokenizer& tokenizer, const std::string& answer) {
  return tokenizer.encode(" " + answer, false);
}

std::vector<std::int32_t> name_tokens(const Tokenizer& tokenizer, const std::string& name) {
  return tokenizer.encode(" " + name, false);
}

// Countries under their main name, and the tokens of " Name": one for slots, several for some donors.
struct Entity {
  const FactEntity* fact;
  std::vector<std::int32_t> tokens;
};

// A template asked about every entity: prompts, base answers.
struct Asked {
  std::vector<ScoreCase> cases;                  // one an entity; wanted is its own answer
  std::vector<std::vector<std::int64_t>> slots;  // positions of the name
  std::vector<const std::string*> answers;       // null: has none

  bool fits(std::size_t i) const { return answers[i] != nullptr && !slots[i].empty(); }
  // Entity i's prompt with its name reading another record.
  ScoreCase swapped(std::size_t i, const float* record, std::vector<std::int32_t> wanted) const {
    ScoreCase c{cases[i].prompt, {}, std::move(wanted)};
    for (const std::int64_t place : slots[i]) c.edits.push_back({place, record});
    return c;
  }
};

Asked ask(const LoadedModel& loaded, const FactTemplate& t, const std::vector<Entity>& entities) {
  Asked asked;
  for (const Entity& e : entities) {
    ScoreCase c;
    const std::string* answer = e.fact->find(t.relation);
    if (answer != nullptr) {
      c.prompt = prompt_tokens(loaded, fill_prompt(t, *e.fact));
      c.wanted = answer_tokens(loaded.tokenizer, *answer);
      asked.slots.push_back(find_slots(c.prompt, e.tokens.front()));
    } else {
      asked.slots.emplace_back();
    }
    asked.answers.push_back(answer);
    asked.cases.push_back(std::move(c));
  }
  return asked;
}

std::vector<bool> known_to_base(const Context& context, const LoadedModel& loaded, const Asked& asked) {
  std::vector<ScoreCase> cases;
  std::vector<std::size_t> index;
  for (std::size_t i = 0; i < asked.cases.size(); ++i) {
    if (!asked.fits(i)) continue;
    cases.push_back(asked.cases[i]);
    index.push_back(i);
  }
  std::vector<bool> known(asked.cases.size(), false);
  const auto results = score_cases(context, loaded.model, cases);
  for (std::size_t i = 0; i < results.size(); ++i) known[index[i]] = results[i].exact;
  return known;
}

SwapScore score_template(const Context& context, const LoadedModel& loaded, const FactTemplate& t,
                         const std::vector<Entity>& entities) {
  SwapScore score{t.id, t.relation, t.text, t.seen, t.is_long, 0, 0, 0, 0, 0};
  const Asked asked = ask(loaded, t, entities);
  const std::vector<bool> known = known_to_base(context, loaded, asked);
  for (std::size_t i = 0; i < entities.size(); ++i) {
    score.entities += asked.fits(i);
    score.base_correct += known[i];
  }
  // A slot at a time keeps memory small; each batch still holds thousands of tokens.
  for (std::size_t slot = 0; slot < entities.size(); ++slot) {
    if (!known[slot]) continue;
    std::vector<ScoreCase> cases;
    std::vector<std::vector<float>> records;
    records.reserve(entities.size());
    const std::vector<std::int32_t>& own = asked.cases[slot].wanted;
    for (std::size_t donor = 0; donor < entities.size(); ++donor) {
      if (!known[donor] || *asked.answers[donor] == *asked.answers[slot]) continue;
      records.push_back(
          swapped_record(loaded.swap_source(), entities[slot].tokens.front(), entities[donor].tokens));
      cases.push_back(asked.swapped(slot, records.back().data(), asked.cases[donor].wanted));
    }
    const auto results = score_cases(context, loaded.model, cases);
    for (const ScoreResult& r : results) {
      ++score.pairs;
      score.donor += r.exact;
      score.own += !r.exact && r.first == own.front();
    }
  }
  return score;
}

RuleScore score_rule(const Context& context, const LoadedModel& loaded, const FactTemplate& t, SpanRule rule,
                     const std::vector<Entity>& slots, const std::vector<Entity>& donors) {
  RuleScore score{std::string(name_of(rule)), 0, 0, {}};
  const Asked asked = ask(loaded, t, slots);
  const std::vector<bool> known = known_to_base(context, loaded, asked);
  for (const Entity& donor : donors) {
    const std::string* wanted = donor.fact->find(t.relation);
    if (wanted == nullptr) continue;
    const std::vector<std::int32_t> read = donors_of_slots(rule, 1, donor.tokens, 0).front();
    std::vector<ScoreCase> cases;
    std::vector<std::vector<float>> records;
    records.reserve(slots.size());
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (!known[i] || *asked.answers[i] == *wanted) continue;
      records.push_back(swapped_record(loaded.swap_source(), slots[i].tokens.front(), read));
      cases.push_back(asked.swapped(i, records.back().data(), answer_tokens(loaded.tokenizer, *wanted)));
    }
    std::int64_t success = 0;
    for (const ScoreResult& r : score_cases(context, loaded.model, cases)) success += r.exact;
    score.cases += static_cast<std::int64_t>(cases.size());
    score.success += success;
    if (!cases.empty()) {
      score.by_donor.emplace_back(donor.fact->name,
                                  static_cast<double>(success) / static_cast<double>(cases.size()));
    }
  }
  return score;
}

// What the template asks of the entity; null where it asks nothing.
const std::string* answer_of(const FactTemplate& t, const FactEntity& e) {
  return e.kind == t.kind ? e.find(t.relation) : nullptr;
}

}  // namespace

Json to_json(const SwapScores& scores) {
  const auto share = [](std::int64_t part, std::int64_t whole) {
    return whole == 0 ? Json() : Json(static_cast<double>(part) / static_cast<double>(whole));
  };
  std::int64_t pairs = 0;
  Json templates = Json::array(), rules = Json::array();
  for (const SwapScore& t : scores.templates) {
    pairs = std::max(pairs, t.pairs);
    templates.push_back({{"id", t.id},
                         {"text", t.text},
                         {"relation", t.relation},
                         {"seen", t.seen},
                         {"long", t.is_long},
                         {"base_accuracy", share(t.base_correct, t.entities)},
                         {"swap_success", share(t.donor, t.pairs)},
                         {"slot_kept", share(t.own, t.pairs)},
                         {"cases", t.pairs}});
  }
  for (const RuleScore& r : scores.rules) {
    Json donors = Json::array();
    for (const auto& [donor, success] : r.by_donor)
      donors.push_back({{"donor", donor}, {"success", success}});
    rules.push_back(
        {{"rule", r.rule}, {"cases", r.cases}, {"success", share(r.success, r.cases)}, {"by_donor", donors}});
  }
  return {
      {"countries", scores.countries}, {"pairs", pairs}, {"templates", templates}, {"multi_token", rules}};
}

FactSuite load_facts(const std::filesystem::path& path) {
  FactSuite suite = parse_fact_suite(read_file(path), path.string());
  const bool asks = std::any_of(suite.templates.begin(), suite.templates.end(), [&](const FactTemplate& t) {
    return std::any_of(suite.entities.begin(), suite.entities.end(),
                       [&](const FactEntity& e) { return answer_of(t, e) != nullptr; });
  });
  if (!asks)
    fail(ErrorCode::kFormat, "{}: expected an entity with a fact that a template asks for, found none",
         path.string());
  return suite;
}

std::vector<TemplateAccuracy> fact_accuracy(const Context& context, const PatchedModel& opened,
                                            const FactSuite& suite) {
  std::vector<TemplateAccuracy> all;
  for (const FactTemplate& t : suite.templates) {
    TemplateAccuracy accuracy{t.id, t.relation, t.text, t.seen, 0, 0};
    std::vector<ScoreCase> cases;
    for (const FactEntity& e : suite.entities) {
      const std::string* const answer = answer_of(t, e);
      if (answer == nullptr) continue;
      cases.push_back(
          {prompt_tokens(opened.loaded, fill_prompt(t, e)), {}, answer_tokens(opened.tokenizer(), *answer)});
    }
    for (const ScoreResult& r : score_cases(context, opened.model(), cases, &opened.overlay))
      accuracy.correct += r.exact;
    accuracy.cases = static_cast<std::int64_t>(cases.size());
    all.push_back(std::move(accuracy));
  }
  return all;
}

SwapScores score_swaps(const Context& context, const LoadedModel& loaded, const FactSuite& suite,
                       std::int64_t max_templates, bool quiet) {
  std::vector<Entity> single, several;
  for (const FactEntity& e : suite.entities) {
    if (e.kind != "country" || !e.same_as.empty()) continue;
    Entity entity{&e, name_tokens(loaded.tokenizer, e.name)};
    if (entity.tokens.size() == 1) {
      single.push_back(std::move(entity));
    } else if (e.multi_word) {
      several.push_back(std::move(entity));
    }
  }
  SwapScores scores;
  scores.countries = static_cast<std::int64_t>(single.size());
  std::vector<const FactTemplate*> templates;
  for (const FactTemplate& t : suite.templates) {
    if (t.kind == "country" &&
        (max_templates == 0 || static_cast<std::int64_t>(templates.size()) < max_templates))
      templates.push_back(&t);
  }
  Progress progress("scoring ", static_cast<std::int64_t>(templates.size()) + 3, quiet);
  std::int64_t done = 0;
  for (const FactTemplate* t : templates) {
    scores.templates.push_back(score_template(context, loaded, *t, single));
    progress.update(++done, t->id);
  }
  for (const SpanRule rule : {SpanRule::average, SpanRule::copy, SpanRule::subset}) {
    if (templates.empty() || several.empty()) break;
    scores.rules.push_back(score_rule(context, loaded, *templates.front(), rule, single, several));
    progress.update(++done, std::string(name_of(rule)));
  }
  return scores;
}

}  // namespace stem
