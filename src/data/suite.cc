#include "data/suite.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "core/names.h"
#include "data/answer_suite.h"
#include "data/choice_suite.h"
#include "data/csv.h"
#include "data/json_lines.h"
#include "data/last_word.h"
#include "io/file.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::pair<SuiteForm, std::string_view>, 5> kForms{{{SuiteForm::choice, "choice"},
                                                                        {SuiteForm::mmlu, "mmlu"},
                                                                        {SuiteForm::hellaswag, "hellaswag"},
                                                                        {SuiteForm::last_word, "last-word"},
                                                                        {SuiteForm::answer, "answer"}}};
constexpr std::string_view kQuery = "{query}";

std::string_view line_at(std::string_view text, int number) {
  for (; number > 0; --number) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return {};
    text.remove_prefix(end + 1);
  }
  std::string_view line = text.substr(0, text.find('\n'));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

SuiteForm form_of_object(const Json& object, const std::string& where) {
  const auto has = [&](std::string_view key) { return find_field(object, key, where) != nullptr; };
  if (has("choices") || has("gold")) return SuiteForm::choice;
  if (has("continuation")) return SuiteForm::last_word;
  if (has("answer")) return SuiteForm::answer;
  std::string keys;
  for (const auto& member : object.items()) {
    if (keys.size() < 100) keys += (keys.empty() ? "" : ", ") + member.key();
  }
  fail(ErrorCode::kFormat,
       "{}: expected the members of a suite (query, choices, gold; context, continuation; or question, "
       "answer), "
       "found {}",
       where, keys.empty() ? "none" : keys);
}

void refuse_binary(std::string_view text, std::string_view name) {
  if (text.starts_with("BZh"))
    fail(ErrorCode::kFormat, "{}: expected text, found bzip2 data: decompress it first (bunzip2 -k)", name);
  if (text.starts_with("\x1f\x8b"))
    fail(ErrorCode::kFormat, "{}: expected text, found gzip data: unpack it first (gunzip -k, tar xzf)",
         name);
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos)
    fail(ErrorCode::kFormat, "{}: expected text, found a NUL byte at {}: a binary file?", name, nul);
}

std::string subject_of(const fs::path& path) {
  std::string subject = path.stem().string();
  for (const std::string_view end : {"_test", "_dev", "_val"}) {
    if (subject.size() > end.size() && subject.ends_with(end)) subject.resize(subject.size() - end.size());
  }
  return subject;
}

std::vector<SuiteItem> parse_items(SuiteForm form, std::string_view text, const fs::path& path) {
  const std::string name = path.string();
  switch (form) {
    case SuiteForm::choice:
      return parse_choice_lines(text, name);
    case SuiteForm::mmlu:
      return parse_mmlu(text, name, subject_of(path));
    case SuiteForm::hellaswag:
      return parse_hellaswag(text, name);
    case SuiteForm::last_word:
      return parse_last_word(text, name);
    case SuiteForm::answer:
      return parse_answers(text, name);
  }
  return {};
}

std::vector<SuiteItem> read_items(SuiteForm form, const fs::path& path) {
  const std::string text = read_file(path);
  refuse_binary(text, path.string());
  return parse_items(form, text, path);
}

std::vector<SuiteItem> read_folder(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().extension() == ".csv") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());  // the file system's order is not the same everywhere
  if (files.empty()) fail(ErrorCode::kFormat, "{}: expected *.csv files, found none", folder.string());
  std::vector<SuiteItem> items;
  for (const fs::path& file : files) {
    auto more = read_items(SuiteForm::mmlu, file);
    std::move(more.begin(), more.end(), std::back_inserter(items));
  }
  return items;
}

void limit_items(std::vector<SuiteItem>& items, std::int64_t limit) {
  std::vector<SuiteItem> kept;
  std::int64_t of_subject = 0;
  for (SuiteItem& item : items) {
    if (!kept.empty() && kept.back().subject != item.subject) of_subject = 0;
    if (of_subject++ < limit) kept.push_back(std::move(item));
  }
  items = std::move(kept);
}

// MMLU's examples: the first of each subject that is asked about.
std::vector<SuiteItem> subject_shots(const Suite& suite, std::vector<SuiteItem> from, std::int64_t count,
                                     const std::string& place) {
  limit_items(from, count);
  const std::string* subject = nullptr;
  for (const SuiteItem& item : suite.items) {
    if (subject != nullptr && *subject == item.subject) continue;
    subject = &item.subject;
    const auto have = std::count_if(from.begin(), from.end(),
                                    [&](const SuiteItem& shot) { return shot.subject == *subject; });
    if (have < count) {
      fail(ErrorCode::kUsage, "{}: expected {} examples of {} (--shots), found {}", place, count, *subject,
           have);
    }
  }
  return from;
}

void find_shots(Suite& suite, const SuiteOptions& options, const fs::path& sibling) {
  const auto count = static_cast<std::size_t>(options.shots);
  if (suite.form == SuiteForm::mmlu) {
    const fs::path& from = options.shots_from.empty() ? sibling : options.shots_from;
    if (from.empty() || !fs::exists(from)) {
      fail(ErrorCode::kUsage,
           "{}: --shots: expected a folder dev beside the files, or --shots-from, found {}", suite.path,
           from.empty() ? "neither" : from.string() + " missing");
    }
    suite.shots =
        subject_shots(suite, fs::is_directory(from) ? read_folder(from) : read_items(suite.form, from),
                      options.shots, from.string());
    return;
  }
  std::vector<SuiteItem> other;
  if (!options.shots_from.empty()) other = read_items(suite.form, options.shots_from);
  std::vector<SuiteItem>& from = options.shots_from.empty() ? suite.items : other;
  const std::size_t least = options.shots_from.empty() ? count + 1 : count;
  if (from.size() < least) {
    fail(ErrorCode::kUsage, "{}: expected at least {} items for {} examples (--shots), found {}",
         options.shots_from.empty() ? suite.path : options.shots_from.string(), least, count, from.size());
  }
  const auto end = from.begin() + static_cast<std::ptrdiff_t>(count);
  suite.shots.assign(std::make_move_iterator(from.begin()), std::make_move_iterator(end));
  from.erase(from.begin(), end);
}

std::string default_template(const Suite& suite) {
  if (suite.form == SuiteForm::answer) return "Question: {query}\nAnswer:";
  const bool asks = suite.form == SuiteForm::choice &&
                    std::all_of(suite.items.begin(), suite.items.end(), [](const SuiteItem& item) {
                      const std::size_t line = item.query.rfind('\n') + 1;  // npos + 1 is 0
                      return item.query.compare(line, 9, "Question:") == 0;
                    });
  return asks ? "{query}\nAnswer:" : "{query}";
}

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// The continuation with the space that separates it from what stands before.
std::string separated(std::string_view context, const std::string& continuation) {
  const bool apart = context.empty() || is_space(context.back()) || is_space(continuation.front());
  return apart ? continuation : " " + continuation;
}

std::string query_text(const Suite& suite, const SuiteItem& item) {
  if (suite.form == SuiteForm::mmlu) return mmlu_question(item);
  std::string text = suite.query_template;
  text.replace(text.find(kQuery), kQuery.size(), item.query);
  return text;
}

std::string shot_text(const Suite& suite, const SuiteItem& shot) {
  const std::string text = query_text(suite, shot);
  const std::string target = suite.form == SuiteForm::mmlu
                                 ? std::string(1, static_cast<char>('A' + shot.gold))
                                 : shot.choices[static_cast<std::size_t>(shot.gold)];
  return text + separated(text, target) + "\n\n";
}

}  // namespace

std::string_view name_of(SuiteForm form) {
  return kForms[static_cast<std::size_t>(form)].second;
}

SuiteForm suite_form_from(std::string_view name) {
  std::vector<std::string> known;
  for (const auto& [form, word] : kForms) {
    if (word == name) return form;
    known.emplace_back(word);
  }
  fail(ErrorCode::kUsage, "--form: expected choice, mmlu, hellaswag, last-word or answer, found \"{}\"{}",
       name, did_you_mean(name, known));
}

SuiteForm recognise_suite(std::string_view text, std::string_view name) {
  refuse_binary(text, name);
  const std::size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos)
    fail(ErrorCode::kFormat, "{}: expected a suite, found an empty file", name);
  if (text[start] == '{') {
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(start), '\n');
    const std::string where = fmt::format("{}: line {}", name, line);
    const std::string_view first = text.substr(start, text.find('\n', start) - start);
    return form_of_object(parse_json(first, where), where);
  }
  const std::string_view second = line_at(text, 1);
  if (second.size() == 1 && second[0] >= '0' && second[0] <= '9') return SuiteForm::hellaswag;
  const auto record = CsvReader(text, name).next();
  if (record && record->fields.size() > 1 && text[start] != '[') return SuiteForm::mmlu;
  fail(ErrorCode::kFormat,
       "{}: line 1: expected JSON Lines, MMLU's CSV or HellaSwag's six lines an item, found {}", name,
       shown(Json(std::string(line_at(text.substr(start), 0).substr(0, 200)))));
}

Suite load_suite(const fs::path& path, const SuiteOptions& options) {
  Suite suite;
  suite.path = path.string();
  fs::path dev;
  if (fs::is_directory(path)) {
    if (options.form && *options.form != SuiteForm::mmlu) {
      fail(ErrorCode::kUsage, "{}: --form: expected mmlu for a folder, found {}", suite.path,
           name_of(*options.form));
    }
    suite.form = SuiteForm::mmlu;
    const bool split = fs::is_directory(path / "test");
    suite.items = read_folder(split ? path / "test" : path);
    dev = split ? path / "dev" : fs::absolute(path).lexically_normal() / ".." / "dev";
  } else {
    const std::string text = read_file(path);
    refuse_binary(text, suite.path);
    suite.form = options.form ? *options.form : recognise_suite(text, suite.path);
    suite.items = parse_items(suite.form, text, path);
    dev = fs::absolute(path).parent_path() / ".." / "dev";
  }
  suite.query_template = options.query_template.value_or(default_template(suite));
  if (suite.query_template.find(kQuery) == std::string::npos) {
    fail(ErrorCode::kUsage, "{}: --template: expected a text with {{query}}, found {}", suite.path,
         shown(Json(suite.query_template)));
  }
  if (options.shots > 0) find_shots(suite, options, dev.lexically_normal());
  if (options.limit > 0) limit_items(suite.items, options.limit);
  return suite;
}

SuitePrompt prompt_of(const Suite& suite, const SuiteItem& item) {
  SuitePrompt prompt;
  if (suite.form == SuiteForm::mmlu) prompt.context = mmlu_heading(item.subject);
  for (const SuiteItem& shot : suite.shots) {
    if (shot.subject == item.subject) prompt.context += shot_text(suite, shot);
  }
  prompt.context += query_text(suite, item);
  for (std::size_t i = 0; i < item.choices.size(); ++i) {
    const std::string text =
        suite.form == SuiteForm::mmlu ? std::string(1, static_cast<char>('A' + i)) : item.choices[i];
    prompt.continuations.push_back(separated(prompt.context, text));
  }
  return prompt;
}

}  // namespace stem
