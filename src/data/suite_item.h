// One question of a benchmark, whatever form its file had.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stem {

struct SuiteItem {
  std::string query;                 ///< what is asked, before any template
  std::vector<std::string> choices;  ///< what may follow; one in suites without a choice
  std::int64_t gold = 0;             ///< index of the right one
  std::string answer;                ///< answer suites: the figure to find
  std::string subject;               ///< MMLU: the file's name without _test, _dev, _val
  std::string where;                 ///< "FILE: line N", for errors and lists
};

}  // namespace stem
