// What the kernel tells in files of text: /proc, /sys.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace stem {

/// The file, "" where there is none.
std::string system_text(const std::filesystem::path& path);

/// The value of the first line "name : value" of such a text, "" where there is none.
std::string system_value(const std::string& text, std::string_view name);

}  // namespace stem
