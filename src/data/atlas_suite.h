// The fact suite that belongs to the atlas corpus.
#pragma once

#include <filesystem>

#include "data/atlas_subjects.h"
#include "data/fact_suite.h"

namespace stem {

/// Entities from the tables, templates from score.tsv, probes from probes.tsv and from the tables of
/// occupations and senses. Errors: kNotFound, kFormat (file, line, expected, found).
FactSuite make_atlas_suite(const std::filesystem::path& source_dir, const AtlasTables& tables);

}  // namespace stem
