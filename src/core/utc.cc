#include "core/utc.h"

namespace stem {

std::string utc_text(std::time_t time) {
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  char text[32];
  const std::size_t size = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text, size};
}

bool parse_utc(const std::string& text, std::time_t* time) {
  if (text.size() != 20) return false;
  std::tm parts{};
  const char* end = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end == nullptr || *end != '\0') return false;
  *time = ::timegm(&parts);
  return utc_text(*time) == text;  // strptime takes February 30th; the round trip does not
}

}  // namespace stem
