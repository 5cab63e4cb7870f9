// Times in files: RFC 3339, UTC, whole seconds.
#pragma once

#include <ctime>
#include <string>

namespace stem {

/// "2026-01-31T12:00:00Z".
std::string utc_text(std::time_t time);

/// False unless `text` is a valid time of that form.
bool parse_utc(const std::string& text, std::time_t* time);

}  // namespace stem
