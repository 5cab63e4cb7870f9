#include "generate/prompt_lookup.h"

#include <algorithm>

namespace stem {

std::vector<std::int32_t> prompt_lookup(std::span<const std::int32_t> tokens, std::int64_t count) {
  constexpr std::size_t kWindow = 4096;
  if (tokens.size() > kWindow) tokens = tokens.last(kWindow);
  if (count <= 0) return {};
  for (std::size_t n = 3; n >= 2; --n) {
    if (tokens.size() <= n) continue;
    const auto end = tokens.last(n);
    for (std::size_t at = tokens.size() - n; at-- > 0;) {
      if (!std::equal(end.begin(), end.end(), tokens.begin() + static_cast<std::ptrdiff_t>(at))) continue;
      const auto next = tokens.subspan(at + n);
      const auto take = std::min(next.size(), static_cast<std::size_t>(count));
      return {next.begin(), next.begin() + static_cast<std::ptrdiff_t>(take)};
    }
  }
  return {};
}

}  // namespace stem
