#include "train/freeze.h"

#include <fnmatch.h>

#include <algorithm>

#include "core/error.h"

namespace stem {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  for (std::size_t begin = 0;;) {
    if (fnmatch(pattern.c_str(), name.c_str() + begin, 0) == 0) return true;
    const std::size_t dot = name.find('.', begin);
    if (dot == std::string::npos) return false;
    begin = dot + 1;
  }
}

std::vector<std::string> parts_of(const std::string& list) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    std::string part = list.substr(begin, end - begin);
    part.erase(0, part.find_first_not_of(' '));
    part.erase(part.find_last_not_of(' ') + 1);
    if (!part.empty()) parts.push_back(part);
    begin = end + 1;
  }
  return parts;
}

}  // namespace

Freeze::Freeze(const std::string& patterns, const ModelConfig& c) {
  const bool has_table = c.stem_layer_count() > 0;
  std::vector<std::string> names;
  for_each_tensor(c, DenseTensors::layout(c),
                  [&](const std::string& name, const Out&, TensorKind) { names.push_back(name); });
  for (const std::string& pattern : parts_of(patterns)) {
    bool found = false;
    const auto match = [&](const std::string& name, bool is_table) {
      const bool hit = pattern == "tables"  ? is_table
                       : pattern == "dense" ? !is_table
                                            : matches(pattern, name);
      found = found || hit;
      return hit;
    };
    dense.resize(names.size(), false);
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (match(names[i], false)) dense[i] = true;
    }
    if (!c.tied && match("model.embed_tokens.weight", false)) embedding = true;
    if (has_table && match("stem.table", true)) table = true;
    if (!found) {
      fail(ErrorCode::kUsage,
           "train.freeze: expected tables, dense, or a glob over tensor names, found \"{}\", which matches "
           "none of this model's",
           pattern);
    }
  }
  const bool all_dense =
      !dense.empty() && std::all_of(dense.begin(), dense.end(), [](bool frozen) { return frozen; });
  if (all_dense && (table || !has_table) && (embedding || c.tied)) {
    fail(ErrorCode::kUsage, "train.freeze: \"{}\" leaves nothing to train", patterns);
  }
}

bool Freeze::any_dense() const {
  return std::any_of(dense.begin(), dense.end(), [](bool frozen) { return frozen; });
}

}  // namespace stem
