#include "core/error.h"

#include <cstdio>
#include <cstdlib>

namespace stem {

void require(bool condition, std::string_view message, std::source_location where) {
  if (condition) return;
  fmt::print(stderr, "stem: internal error at {}:{} in {}: {}\n", where.file_name(), where.line(),
             where.function_name(), message);
  std::abort();
}

}  // namespace stem
