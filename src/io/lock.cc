#include "io/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace stem {

PathLock::PathLock(const std::filesystem::path& path, const char* who)
    : file_(std::filesystem::is_directory(path) ? ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                                                : ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (file_ >= 0 && ::flock(file_, LOCK_EX | LOCK_NB) == 0) return;
  const int error = errno;
  if (file_ >= 0) ::close(file_);
  if (error == EWOULDBLOCK) fail(ErrorCode::kUsage, "{}: another {} is at work there", path.string(), who);
  fail(error == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: cannot open to lock: {}", path.string(),
       std::strerror(error));
}

PathLock::~PathLock() {
  ::close(file_);
}

}  // namespace stem
