// The atlas corpus: the project's own text about countries, landmarks, substances, planets, occupations and
// words with two senses, written from the tables and templates in data/atlas (its README.md describes them).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/fact_suite.h"

namespace stem {

struct AtlasOptions {
  std::uint64_t seed = 1;
  std::size_t documents = 30'000;        ///< training documents, about 40 tokens each
  std::size_t held_out_documents = 400;  ///< validation documents of each of the two sorts
};

struct AtlasCorpus {
  std::vector<std::string> documents;           ///< training, in a random order
  std::vector<std::string> held_out;            ///< same distribution; none occurs in training
  std::vector<std::string> held_out_templates;  ///< from held-out templates: wordings never seen in training
  FactSuite facts;
};

/// Writes the corpus from `source_dir` (data/atlas). The same directory and options give the same bytes on
/// every machine. Errors: kNotFound for a missing file; kFormat with file, line, expected and found; kUsage
/// for zero documents or more than 10 million.
AtlasCorpus make_atlas_corpus(const std::filesystem::path& source_dir, const AtlasOptions& options);

}  // namespace stem
