// What the attention of a batch may see.
#pragma once

#include <cstdint>
#include <span>

#include "core/weight_format.h"

namespace stem {

/// A run of consecutive query rows that attend only to one run of consecutive key/value rows, causally: query
/// i of q_len sees keys j <= i + (k_len - q_len). In training a segment is a document (mask on) or a
/// sequence, and the keys are the batch's own rows; in generation the keys lie in a cache.
struct Segment {
  std::int64_t q_row = 0;  ///< first query row in q and y
  std::int64_t q_len = 0;  ///< number of queries
  std::int64_t k_row = 0;  ///< first key row in k and v
  std::int64_t k_len = 0;  ///< number of keys, >= q_len
};

/// Head layout of the attention: H query heads of width A share K key/value heads (query head h reads h /
/// (H/K)).
struct Heads {
  std::int64_t query = 1;      ///< H
  std::int64_t key_value = 1;  ///< K, divides H
  std::int64_t width = 1;      ///< A

  /// Columns of one head in a matrix of keys or values: A, or in i8 the bytes of A values in
  /// WeightFormat::int8, whose groups then belong to one head each (A is a multiple of kWeightGroup).
  std::int64_t stored_width(DType dtype) const {
    return dtype == DType::i8 ? stored_row_bytes(WeightFormat::int8, width) : width;
  }
};

/// N input tokens, concatenated segments.
struct TokenBatch {
  std::span<const std::int32_t> tokens;     ///< [N] input ids
  std::span<const std::int32_t> positions;  ///< [N] RoPE positions, 0-based within a segment's keys
  std::span<const Segment> segments;        ///< cover all query rows once, in order
  /// For each segment the ids of its whole sequence [k_len], cached ones included; may be empty when nothing
  /// is cached.
  std::span<const std::int32_t* const> contexts = {};

  std::int64_t size() const { return static_cast<std::int64_t>(tokens.size()); }
};

}  // namespace stem
