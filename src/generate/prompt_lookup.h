// Guessing what comes next from what was there before: quotations, code, names.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace stem {

/// What followed the last earlier occurrence of the end of `tokens` (its last 3 tokens, else its last 2): at
/// most `count` tokens, none where the end never occurred before. The last 4096 tokens are looked at.
/// Source: the idea is that of "prompt lookup decoding",
/// https://github.com/apoorvumang/prompt-lookup-decoding
std::vector<std::int32_t> prompt_lookup(std::span<const std::int32_t> tokens, std::int64_t count);

}  // namespace stem
