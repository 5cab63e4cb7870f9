#include "io/row_format.h"

namespace stem {

std::optional<WeightFormat> row_format(const Safetensors& file, const std::string& tensor) {
  const auto said = file.metadata().find(tensor);
  if (said == file.metadata().end()) return std::nullopt;
  const auto format = weight_format(said->second);
  if (!format || *format == WeightFormat::bf16) {
    fail(ErrorCode::kFormat, "{}: __metadata__: {}: expected int8, int4 or int4_f16, found \"{}\"",
         file.path(), tensor, said->second.substr(0, 40));
  }
  return format;
}

}  // namespace stem
