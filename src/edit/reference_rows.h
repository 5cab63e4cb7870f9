// Reference rows of a model whose rows are added to an up-projection: what that projection gives a token on
// average. Source: docs/formats/reference.md.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "model/model.h"

namespace stem {

inline constexpr const char* kReferenceFile = "reference_rows.safetensors";

/// ū[t, l]: the mean of W_u x̂ + U_l[t] over a text's occurrences of token t. Added rows (stem_additive) say
/// nothing by themselves, so a swap is told by the difference of two of these.
struct ReferenceRows {
  Table means;  ///< [V][S][F], mapped
  std::vector<std::int64_t>
      occurrences;  ///< [V] of each token in that text; 0: the mean is a guess from its embedding
};

/// The reference rows in a model's directory, if it has any. Throws kMismatch for other shapes than the
/// model's table has, kFormat for a file that is damaged.
std::optional<ReferenceRows> open_reference_rows(const std::filesystem::path& directory,
                                                 const ModelConfig& config);

/// Writes them record by record.
class ReferenceRowsWriter {
 public:
  /// `occurrences` [V].
  ReferenceRowsWriter(const std::filesystem::path& directory, TableShape shape,
                      std::vector<std::int64_t> occurrences);
  void write(In records);  ///< the next records [n, S·F] bf16
  void close();

 private:
  std::vector<std::int64_t> occurrences_;
  SafetensorsWriter writer_;
};

}  // namespace stem
