// Rows for the tokens of one text, as a layer's batches read them.
#pragma once

#include "convert/calibration_text.h"
#include "tables/row_plan.h"

namespace stem {

/// Makes every position of `batch` read its token's row of `rows` [R, F] f32, one a distinct token of `text`,
/// in STEM layer `layer` (counted among them). The memory must outlive the plan.
inline void read_rows(RowPlan& plan, const CalibrationText& text, const TokenBatch& batch, std::int64_t layer,
                      In rows) {
  for (std::int64_t n = 0; n < batch.size(); ++n)
    plan.redirect(n, layer, rows.row<float>(text.place(batch.tokens[static_cast<std::size_t>(n)])));
}

}  // namespace stem
