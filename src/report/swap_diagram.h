// The picture of an edit: the prompt's tokens, the slot that reads another record, and what the model
// answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/html.h"

namespace stem {

struct SwapDiagram {
  struct Answer {
    std::string token;
    double p = 0;  ///< probability in [0, 1]; not finite: not shown
  };
  std::vector<std::string> tokens;    ///< the prompt
  std::vector<std::int64_t> ids;      ///< as long as tokens, or empty
  std::size_t slot_index = 0;         ///< in tokens; outside: no slot is marked
  std::string slot;                   ///< token whose own record is not read
  std::vector<std::string> donors;    ///< tokens whose records are read; several are averaged
  std::vector<std::int64_t> layers;   ///< the model's STEM layers: one row of a record each
  std::vector<Answer> before, after;  ///< likeliest first
};

/// The slot's dashed arrow leads to its own record and the answers before, the full one to the donor's record
/// and the answers after. At most 40 tokens, 3 donors, 8 rows a record and 5 answers are drawn.
Html swap_diagram(const SwapDiagram& diagram, double width);

}  // namespace stem
