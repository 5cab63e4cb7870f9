// A folder of a test's own.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"

namespace stem {

/// An empty folder in the system's place for temporary files; removed, with all that it holds, when this goes
/// out of scope.
class TemporaryFolder {
 public:
  /// Throws kIo where none can be made.
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "stem-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) fail(ErrorCode::kIo, "{}: cannot make a folder", pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code left_there;
    std::filesystem::remove_all(path_, left_there);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace stem
