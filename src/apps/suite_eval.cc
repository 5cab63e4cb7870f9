#include "apps/suite_eval.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/clock.h"
#include "core/error.h"
#include "data/answer_suite.h"

namespace stem {
namespace {

constexpr std::size_t kItemsAtOnce = 64;  // tokenised and scored together; batches are cut by tokens
constexpr std::string_view kStops[] = {"Question:", "</s>", "<|im_end|>"};

// One metric's value for every item.
struct Column {
  std::string name;
  std::vector<double> values;
};

struct Evaluation {
  const Context& context;
  const PatchedModel& opened;
  const std::string& name;
  const Suite& suite;
  const SuiteEvalOptions& options;
  std::vector<Column> columns;
  std::int64_t cut_items = 0;

  void add(std::size_t column, const char* metric, double value) {
    if (columns.size() == column) columns.push_back({metric, {}});
    columns[column].values.push_back(value);
  }
  Json item_json(std::size_t index) const {
    const SuiteItem& item = suite.items[index];
    Json json{{"suite", name}, {"item", index}, {"where", item.where}, {"query", item.query}};
    if (!item.subject.empty()) json["subject"] = item.subject;
    return json;
  }
};

double characters(const std::string& text) {
  const auto is_first = [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; };
  return static_cast<double>(std::count_if(text.begin(), text.end(), is_first));
}

void judge_choices(Evaluation& e, std::size_t index, std::span<const ScoreResult> scores,
                   std::span<const Continuation> continuations) {
  const SuiteItem& item = e.suite.items[index];
  const auto gold = static_cast<std::size_t>(item.gold);
  std::vector<double> sums, in_characters, in_bytes;
  for (std::size_t i = 0; i < item.choices.size(); ++i) {
    sums.push_back(scores[i].log_probability);
    in_characters.push_back(characters(item.choices[i]));
    in_bytes.push_back(static_cast<double>(item.choices[i].size()));
  }
  const std::size_t plain = likeliest(sums);
  const bool letters = e.suite.form == SuiteForm::mmlu;  // each one character long: nothing to normalise
  const std::size_t by_characters = letters ? plain : likeliest(sums, in_characters),
                    by_bytes = letters ? plain : likeliest(sums, in_bytes);
  e.add(0, "acc", plain == gold);
  if (!letters) {
    e.add(1, "acc_norm", by_characters == gold);
    e.add(2, "acc_bytes", by_bytes == gold);
  }
  if (!e.options.on_item) return;
  Json json = e.item_json(index), choices = Json::array();
  for (std::size_t i = 0; i < item.choices.size(); ++i) {
    choices.push_back({{"text", item.choices[i]},
                       {"tokens", continuations[i].score.wanted.size()},
                       {"log_probability", sums[i]}});
  }
  json["choices"] = choices;
  json["gold"] = gold;
  json["chosen"] = plain;
  if (!letters) {
    json["chosen_norm"] = by_characters;
    json["chosen_bytes"] = by_bytes;
  }
  json["cut_tokens"] = continuations.front().cut;
  e.options.on_item(json);
}

void judge_last_word(Evaluation& e, std::size_t index, const ScoreResult& score, const Continuation& c) {
  e.add(0, "acc", score.exact);
  e.add(1, "perplexity", -score.log_probability);
  if (!e.options.on_item) return;
  Json json = e.item_json(index);
  json["continuation"] = e.suite.items[index].choices.front();
  json["tokens"] = c.score.wanted.size();
  json["log_probability"] = score.log_probability;
  json["greedy"] = score.exact;
  json["greedy_first"] = e.opened.tokenizer().has_token(score.first)
                             ? e.opened.tokenizer().decode({&score.first, 1}, false, true)
                             : std::string();
  json["cut_tokens"] = c.cut;
  e.options.on_item(json);
}

void score_items(Evaluation& e) {
  const bool one = e.suite.form == SuiteForm::last_word;
  ScoreOptions options;
  options.greedy = one;
  options.log_probability = true;
  for (std::size_t first = 0; first < e.suite.items.size(); first += kItemsAtOnce) {
    const std::size_t end = std::min(first + kItemsAtOnce, e.suite.items.size());
    std::vector<Continuation> continuations;
    std::vector<std::size_t> starts;
    for (std::size_t i = first; i < end; ++i) {
      starts.push_back(continuations.size());
      const SuitePrompt prompt = prompt_of(e.suite, e.suite.items[i]);
      try {
        for (const std::string& text : prompt.continuations) {
          continuations.push_back(encode_continuation(e.opened.tokenizer(), prompt.context, text,
                                                      e.opened.model().config.max_positions));
        }
      } catch (const Error& error) {
        throw Error(error.code(), e.suite.items[i].where + ": " + error.what());
      }
    }
    starts.push_back(continuations.size());
    std::vector<ScoreCase> cases;
    for (const Continuation& c : continuations) cases.push_back(c.score);
    const auto scores = score_cases(e.context, e.opened.model(), cases, &e.opened.overlay, options);
    for (std::size_t i = first; i < end; ++i) {
      const std::size_t from = starts[i - first], count = starts[i - first + 1] - from;
      const auto mine = std::span(continuations).subspan(from, count);
      e.cut_items += std::any_of(mine.begin(), mine.end(), [](const Continuation& c) { return c.cut > 0; });
      if (one)
        judge_last_word(e, i, scores[from], mine.front());
      else
        judge_choices(e, i, std::span(scores).subspan(from, count), mine);
    }
    if (e.options.on_progress) e.options.on_progress(static_cast<std::int64_t>(end));
  }
}

// Where the first stop begins, or npos.
std::size_t stop_in(std::string_view text) {
  std::size_t at = std::string_view::npos;
  for (const std::string_view stop : kStops) at = std::min(at, text.find(stop));
  return at;
}

// Greedy continuation up to a stop. The session keeps what the prompt shares with the one before: the worked
// examples.
std::string answer_text(const Evaluation& e, Session& session, const std::vector<std::int32_t>& prompt,
                        std::int64_t max_tokens) {
  const std::span<const std::int32_t> rest = session.reuse(prompt);
  GenerateOptions sample;
  sample.max_tokens = max_tokens;
  if (const auto end = e.opened.tokenizer().eos_id()) sample.stop_tokens = {*end};
  std::string text;
  StreamDecoder decoder(e.opened.tokenizer(), false, true);
  generate(session, rest, sample, [&](std::int32_t token) {
    text += decoder.push(token);
    return stop_in(text) == std::string::npos;
  });
  text += decoder.finish();
  return text.substr(0, stop_in(text));
}

void answer_items(Evaluation& e, std::int64_t max_tokens) {
  Session session(e.context, e.opened.model(), &e.opened.overlay);
  for (std::size_t i = 0; i < e.suite.items.size(); ++i) {
    const SuiteItem& item = e.suite.items[i];
    const Prompt prompt = encode_prompt(e.opened.tokenizer(), prompt_of(e.suite, item).context,
                                        session.capacity() - max_tokens);
    e.cut_items += prompt.cut > 0;
    const std::string text = answer_text(e, session, prompt.tokens, max_tokens);
    const auto strict = strict_answer(text), flexible = flexible_answer(text);
    e.add(0, "strict", strict && plain_figure(*strict) == item.answer);
    e.add(1, "flexible", flexible && plain_figure(*flexible) == item.answer);
    if (e.options.on_item) {
      Json json = e.item_json(i);
      json["answer"] = item.answer;
      json["completion"] = text;
      json["strict"] = strict ? Json(*strict) : Json();
      json["flexible"] = flexible ? Json(*flexible) : Json();
      json["cut_tokens"] = prompt.cut;
      e.options.on_item(json);
    }
    if (e.options.on_progress) e.options.on_progress(static_cast<std::int64_t>(i) + 1);
  }
}

SuiteFigures figures(const std::string& name, const std::vector<Column>& columns, std::size_t first,
                     std::size_t count) {
  SuiteFigures made{name, static_cast<std::int64_t>(count), {}};
  for (const Column& c : columns) {
    Estimate estimate = mean_of(std::span(c.values).subspan(first, count));
    if (c.name == "perplexity") {  // of exp(mean): the error by its derivative
      estimate.value = std::exp(estimate.value);
      estimate.standard_error *= estimate.value;
    }
    made.metrics.push_back({c.name, estimate});
  }
  return made;
}

// MMLU: a line a subject, and their mean with every subject counting the same.
void add_subjects(const Evaluation& e, SuiteResult& result) {
  const auto& items = e.suite.items;
  Estimate macro;
  for (std::size_t first = 0, end = 0; first < items.size(); first = end) {
    while (end < items.size() && items[end].subject == items[first].subject) ++end;
    result.subjects.push_back(figures(items[first].subject, e.columns, first, end - first));
    const Estimate& one = result.subjects.back().metrics.front().estimate;
    macro.value += one.value;
    macro.standard_error += one.standard_error * one.standard_error;
  }
  const auto n = static_cast<double>(result.subjects.size());
  macro.value /= n;
  macro.standard_error = std::sqrt(macro.standard_error) / n;
  result.all.metrics.push_back({"acc_macro", macro});
}

Json metrics_json(const SuiteFigures& f) {
  Json json = Json::object();
  for (const SuiteMetric& m : f.metrics)
    json[m.name] = {{"value", m.estimate.value}, {"standard_error", m.estimate.standard_error}};
  return json;
}

std::string rows(const SuiteFigures& f, const std::string& first, std::size_t width) {
  std::string text;
  for (std::size_t i = 0; i < f.metrics.size(); ++i) {
    const Estimate& m = f.metrics[i].estimate;
    text += fmt::format("{:<{}}  {:>6}  {:<10}  {:>10.4f}{}\n", i == 0 ? first : "", width,
                        i == 0 ? fmt::to_string(f.items) : "", f.metrics[i].name, m.value,
                        f.items > 1 ? fmt::format("  ± {:.4f}", m.standard_error) : "");
  }
  return text;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> named_suite_files(const std::vector<std::string>& texts) {
  std::vector<std::pair<std::string, std::string>> named;
  for (const std::string& text : texts) {
    const std::size_t mark = text.find('=');
    if (mark == std::string::npos || mark == 0 || mark + 1 == text.size())
      fail(ErrorCode::kUsage, "--suite: expected NAME=FILE, found {}", shown(Json(text)));
    const std::string name = text.substr(0, mark);
    if (std::any_of(named.begin(), named.end(), [&](const auto& other) { return other.first == name; }))
      fail(ErrorCode::kUsage, "--suite: expected each name once, found {} twice", shown(Json(name)));
    named.emplace_back(name, text.substr(mark + 1));
  }
  return named;
}

SuiteResult evaluate_suite(const Context& inference, const PatchedModel& opened, const std::string& name,
                           const Suite& suite, const SuiteEvalOptions& options) {
  require(inference.inference, "suites are scored by the batch-invariant kernels");
  const auto start = std::chrono::steady_clock::now();
  Evaluation e{inference, opened, name, suite, options, {}, 0};
  SuiteResult result;
  if (suite.form == SuiteForm::answer) {
    result.max_new_tokens =
        std::max<std::int64_t>(1, std::min(options.max_new_tokens, opened.model().config.max_positions / 2));
    answer_items(e, result.max_new_tokens);
  } else {
    score_items(e);
  }
  result.all = figures(name, e.columns, 0, suite.items.size());
  if (suite.form == SuiteForm::mmlu) add_subjects(e, result);
  result.form = suite.form;
  result.path = suite.path;
  result.query_template = suite.form == SuiteForm::mmlu ? "" : suite.query_template;
  result.shots = static_cast<std::int64_t>(suite.shots.size());
  if (!result.subjects.empty()) {  // of one subject
    const std::string& subject = suite.items.front().subject;
    result.shots = std::count_if(suite.shots.begin(), suite.shots.end(),
                                 [&](const SuiteItem& s) { return s.subject == subject; });
  }
  result.cut_items = e.cut_items;
  result.seconds = seconds_since(start);
  return result;
}

Json to_json(const SuiteResult& r) {
  Json json{{"name", r.all.name},   {"form", name_of(r.form)},
            {"file", r.path},       {"items", r.all.items},
            {"shots", r.shots},     {"cut_items", r.cut_items},
            {"seconds", r.seconds}, {"metrics", metrics_json(r.all)}};
  if (!r.query_template.empty()) json["template"] = r.query_template;
  if (r.max_new_tokens > 0) json["max_new_tokens"] = r.max_new_tokens;
  for (const SuiteFigures& s : r.subjects)
    json["subjects"].push_back({{"name", s.name}, {"items", s.items}, {"metrics", metrics_json(s)}});
  return json;
}

std::string table_text(std::span<const SuiteResult> results) {
  std::size_t width = 5;
  for (const SuiteResult& r : results) {
    width = std::max(width, r.all.name.size());
    for (const SuiteFigures& s : r.subjects) width = std::max(width, s.name.size() + 2);
  }
  std::string text = fmt::format("{:<{}}  {:>6}  {:<10}  {:>10}  ± standard error\n", "suite", width, "items",
                                 "metric", "value");
  for (const SuiteResult& r : results) {
    text += rows(r.all, r.all.name, width);
    for (const SuiteFigures& s : r.subjects) text += rows(s, "  " + s.name, width);
  }
  return text;
}

}  // namespace stem
