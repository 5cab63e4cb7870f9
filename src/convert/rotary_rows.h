// Rows of q and k in formats that rotate neighbouring pairs (2i, 2i + 1) of a head, put into the order of
// pairs (i, i + A/2) that this engine and Hugging Face rotate: row j·A/2 + i of a head is its row 2i + j
// there.
#pragma once

#include <cstring>
#include <vector>

#include "core/view.h"

namespace stem {

/// `rows` [heads·A, D] f32 contiguous, in place; `head_width` A is even.
inline void halves_from_pairs(Out rows, std::int64_t head_width) {
  const auto row_bytes = static_cast<std::size_t>(rows.cols) * sizeof(float);
  std::vector<float> head(static_cast<std::size_t>(head_width * rows.cols));
  for (std::int64_t first = 0; first < rows.rows; first += head_width) {
    std::memcpy(head.data(), rows.row<float>(first), row_bytes * static_cast<std::size_t>(head_width));
    for (std::int64_t i = 0; i < head_width; ++i) {
      const std::int64_t to = i % 2 * (head_width / 2) + i / 2;
      std::memcpy(rows.row<float>(first + to), head.data() + i * rows.cols, row_bytes);
    }
  }
}

}  // namespace stem
