// One process at a time works on a file or folder.
#pragma once

#include <filesystem>

namespace stem {

/// An exclusive lock of a file (made if absent) or folder, which goes with the process however that ends.
/// Throws kUsage "<path>: another <who> is at work there" at once where another process has it, kIo else.
class PathLock {
 public:
  PathLock(const std::filesystem::path& path, const char* who);
  ~PathLock();
  PathLock(const PathLock&) = delete;
  PathLock& operator=(const PathLock&) = delete;

 private:
  int file_;
};

}  // namespace stem
