#include "apps/system_text.h"

#include <sstream>

#include "io/file.h"

namespace stem {

std::string system_text(const std::filesystem::path& path) {
  constexpr std::uint64_t kMost = 16 << 20;  // /proc/cpuinfo of a large machine has some hundred kB
  return std::filesystem::exists(path) ? read_file(path, kMost) : "";
}

std::string system_value(const std::string& text, std::string_view name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name)) continue;
    const std::size_t colon = line.find(':');
    const std::size_t start = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
    if (start != std::string::npos) return line.substr(start);
  }
  return {};
}

}  // namespace stem
