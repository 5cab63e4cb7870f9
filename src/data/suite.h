// Benchmark suites: files and folders whose form is recognised by what stands in them, and the prompts that
// their items become.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/suite_item.h"

namespace stem {

enum class SuiteForm { choice, mmlu, hellaswag, last_word, answer };

/// "choice", "mmlu", "hellaswag", "last-word", "answer".
std::string_view name_of(SuiteForm form);
/// Throws kUsage naming the known forms.
SuiteForm suite_form_from(std::string_view name);

struct Suite {
  SuiteForm form = SuiteForm::choice;
  std::string path;
  std::string query_template;  ///< "{query}" stands for the item's query; unused by MMLU
  std::vector<SuiteItem> items;
  std::vector<SuiteItem> shots;  ///< worked examples before every item; MMLU: those of its subject
};

struct SuiteOptions {
  std::optional<SuiteForm> form;              ///< none: recognised
  std::optional<std::string> query_template;  ///< none: see load_suite
  std::int64_t shots = 0;
  std::filesystem::path shots_from;  ///< file, or for MMLU a folder; empty: see load_suite
  std::int64_t limit = 0;            ///< first n items (MMLU: of each subject); 0: all
};

/// The form of a file's bytes: JSON Lines by the members of their first object, HellaSwag by a second line of
/// one digit, CSV by a first record of several columns. kFormat, naming what was found, for anything else;
/// compressed files are told to be decompressed first.
SuiteForm recognise_suite(std::string_view text, std::string_view name);

/// Reads a suite. A folder is MMLU: all its *.csv, or those of its subfolder `test`; a file's name without
/// .csv, _test, _dev, _val is the subject.
///
/// The template without an option: "Question: {query}\nAnswer:" for answers; "{query}\nAnswer:" when the last
/// line of every query of a choice suite begins with "Question:"; else "{query}".
///
/// Shots come from `shots_from`; for MMLU else from the folder `dev` beside or within; else they are the
/// first items of the file itself, which are then not asked. kUsage when there are too few.
Suite load_suite(const std::filesystem::path& path, const SuiteOptions& options = {});

/// What a model reads before the answer, and what may follow: continuations with their leading space.
struct SuitePrompt {
  std::string context;
  std::vector<std::string> continuations;
};
SuitePrompt prompt_of(const Suite& suite, const SuiteItem& item);

}  // namespace stem
