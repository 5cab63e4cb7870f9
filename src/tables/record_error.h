// Records that could not be read: which requests of a batch they concern.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace stem {

/// Some records of a batch cannot be had: the file was cut, the disk failed, a verifier refused them. Whoever
/// made the batch can fail the requests that hold these positions and repeat the step for the others; nothing
/// is remembered, so a later batch tries again.
class RecordError : public Error {
 public:
  RecordError(ErrorCode code, const std::string& message, std::vector<std::int32_t> tokens,
              std::vector<std::int64_t> positions)
      : Error(code, message), tokens_(std::move(tokens)), positions_(std::move(positions)) {}

  /// Tokens whose records are lost, ascending.
  const std::vector<std::int32_t>& tokens() const noexcept { return tokens_; }
  /// Positions of the batch that read them, ascending; empty where there was no batch.
  const std::vector<std::int64_t>& positions() const noexcept { return positions_; }

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<std::int64_t> positions_;
};

}  // namespace stem
