// Parts of `stem data` that the demonstration uses too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "apps/settings.h"
#include "apps/train_run.h"

namespace stem {

struct DataSummary {
  std::int64_t vocab = 0, train_documents = 0, train_tokens = 0, held_out_documents = 0, held_out_tokens = 0;
};

/// The atlas corpus, its tokenizer, token shards and fact suite, from the tables in `source`.
DataSummary write_atlas_data(const std::filesystem::path& out, const std::filesystem::path& source,
                             const Settings& settings);

/// A folder or file that ships with the program ("data/atlas", "configs/atlas.toml"): `given` if not empty,
/// else from the current directory, the checkout of build/stem, or share/stem. Throws kNotFound.
std::filesystem::path find_share(const std::string& name, const std::string& given = "");

}  // namespace stem
