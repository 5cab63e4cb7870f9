#include "apps/kv_option.h"

#include <CLI/CLI.hpp>
#include <map>

namespace stem {

void add_kv_option(CLI::App& command, LoadOptions& options) {
  static const std::map<std::string, DType> kTypes{
      {"f32", DType::f32}, {"bf16", DType::bf16}, {"int8", DType::i8}};
  command
      .add_option_function<std::string>(
          "--kv",
          [&options](const std::string& text) {
            const auto type = kTypes.find(text);
            if (type == kTypes.end())
              fail(ErrorCode::kUsage, "--kv: expected f32, bf16 or int8, found {}", text);
            options.kv = type->second;
          },
          "what keys and values are kept in: f32, bf16 (default for bf16, 8 and 4 bits) or int8, half of "
          "bf16's "
          "memory")
      ->type_name("TYPE");
}

}  // namespace stem
