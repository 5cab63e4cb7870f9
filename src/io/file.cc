#include "io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace stem {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kBufferBytes = std::uint64_t{1} << 18;
constexpr std::uint64_t kLargestCall = std::uint64_t{1} << 30;  // Linux moves at most 2 GiB a call

[[noreturn]] void fail_system(const fs::path& path, std::string_view action, int code) {
  const auto kind = code == ENOENT || code == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo;
  fail(kind, "{}: {}: {}", path.string(), action, std::strerror(code));
}

// Owns a descriptor on the way through a function that may throw.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

std::string_view kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

// O_NONBLOCK: opening a FIFO for reading must not wait for its writer. It has no effect on regular files.
int open_regular(const fs::path& path, std::uint64_t* size) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.get() < 0) fail_system(path, "cannot open", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail_system(path, "cannot read its size", errno);
  if (!S_ISREG(status.st_mode)) {
    fail(ErrorCode::kIo, "{}: expected a regular file, found {}", path.string(), kind_of(status.st_mode));
  }
  *size = static_cast<std::uint64_t>(status.st_size);
  return file.release();
}

void sync_path(const fs::path& path, int flags) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
  if (file.get() < 0) fail_system(path, "cannot open to sync", errno);
  // Some network file systems have no fsync for directories; that is not a lost write.
  if (::fsync(file.get()) != 0 && !((flags & O_DIRECTORY) != 0 && errno == EINVAL)) {
    fail_system(path, "cannot sync to disk", errno);
  }
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

constexpr std::uint64_t kBlock = 4096;  // what file systems give out

bool is_zero(const char* bytes, std::uint64_t count) {
  return bytes[0] == 0 && std::memcmp(bytes, bytes + 1, count - 1) == 0;
}

// Either whole blocks of zeros, or what comes before the next of them.
struct Stretch {
  std::uint64_t bytes = 0;
  bool is_hole = false;
};
Stretch next_stretch(const char* bytes, std::uint64_t count, std::uint64_t position) {
  const auto is_hole = [&](std::uint64_t at) { return at + kBlock <= count && is_zero(bytes + at, kBlock); };
  std::uint64_t end = std::min(count, (kBlock - position % kBlock) % kBlock);
  const bool hole = end == 0 && is_hole(0);
  while (end < count && is_hole(end) == hole) end = std::min(end + kBlock, count);
  return {end, hole};
}

// "a/b/" -> "a/b": a path that names the directory itself and has a parent to sync.
fs::path without_slash(fs::path path) {
  while (path.has_relative_path() && path.filename().empty()) path = path.parent_path();
  return path;
}

bool is_link(const fs::path& path) {
  std::error_code ignored;
  return fs::is_symlink(fs::symlink_status(path, ignored));
}

// Whatever stands at `final_path` must be ours to remove.
void check_replaceable(const fs::path& final_path, const std::string& marker) {
  std::error_code code;
  if (!fs::exists(fs::symlink_status(final_path, code))) return;
  if (!fs::is_directory(final_path, code)) {
    fail(ErrorCode::kUsage, "{}: expected a directory or nothing, found a file", final_path.string());
  }
  if (!fs::is_empty(final_path, code) && !fs::exists(final_path / marker, code)) {
    fail(ErrorCode::kUsage, "{}: not replaced: a directory without {}, so not one of ours",
         final_path.string(), marker);
  }
}

}  // namespace

std::string read_file(const fs::path& path, std::uint64_t max_bytes) {
  std::uint64_t size = 0;
  const Descriptor file(open_regular(path, &size));
  std::string content;
  // The size is only where to start: files under /proc report 0, and a file may grow while it is read.
  for (std::uint64_t used = 0;;) {
    if (size > max_bytes || used > max_bytes) {
      fail(ErrorCode::kFormat, "{}: {} bytes, expected at most {}", path.string(), std::max(size, used),
           max_bytes);
    }
    if (used == content.size())
      content.resize(std::max<std::uint64_t>(size, used) + (used < size ? 1 : 4096));
    const auto want = std::min<std::uint64_t>(content.size() - used, kLargestCall);
    const ssize_t got = ::read(file.get(), content.data() + used, want);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_system(path, fmt::format("cannot read {} bytes at {}", want, used), errno);
    if (got == 0) {
      content.resize(used);
      return content;
    }
    used += static_cast<std::uint64_t>(got);
  }
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  Descriptor file(open_regular(path, &size_));
  if (size_ > 0) {
    void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
    if (p == MAP_FAILED) fail_system(path, fmt::format("cannot map {} bytes", size_), errno);
    data_ = static_cast<const std::byte*>(p);
  }
  descriptor_ = file.release();
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

std::uint64_t MappedFile::current_size() const {
  struct stat status {};
  return ::fstat(descriptor_, &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

void MappedFile::read_at(std::uint64_t offset, void* to, std::uint64_t count) const {
  if (offset > size_ || count > size_ - offset) {
    fail(ErrorCode::kFormat, "{}: expected {} bytes at {}, found a file of {}", path_.string(), count, offset,
         size_);
  }
  for (std::uint64_t done = 0; done < count;) {
    const ssize_t got = ::pread(descriptor_, static_cast<char*>(to) + done,
                                std::min(count - done, kLargestCall), static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_system(path_, fmt::format("cannot read {} bytes at {}", count, offset), errno);
    if (got == 0) {
      fail(ErrorCode::kIo,
           "{}: expected {} bytes at {}, found the end after {}: the file was cut while in use",
           path_.string(), count, offset, done);
    }
    done += static_cast<std::uint64_t>(got);
  }
}

FileWriter::FileWriter(const fs::path& path) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail_system(path, "cannot create", errno);
  struct stat status {};
  may_have_holes_ = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileWriter::write(const void* bytes, std::uint64_t count) {
  require(descriptor_ >= 0, "write to a closed file");
  const char* from = static_cast<const char*>(bytes);
  position_ += count;
  if (count >= kBufferBytes) {
    flush();
    write_through(from, count);
    return;
  }
  if (buffer_.size() + count > kBufferBytes) flush();
  buffer_.insert(buffer_.end(), from, from + count);
}

void FileWriter::write_through(const char* bytes, std::uint64_t count) {
  const auto failed = [&](std::uint64_t left) {
    fail_system(path_, fmt::format("cannot write {} bytes at {}", left, written_), errno);
  };
  for (std::uint64_t done = 0; done < count;) {
    const Stretch next =
        may_have_holes_ ? next_stretch(bytes + done, count - done, written_) : Stretch{count - done, false};
    if (next.is_hole) {
      const auto end = static_cast<off_t>(written_ + next.bytes);
      if (::ftruncate(descriptor_, end) != 0 || ::lseek(descriptor_, end, SEEK_SET) < 0) failed(count - done);
      done += next.bytes;
      written_ += next.bytes;
      continue;
    }
    const ssize_t put = ::write(descriptor_, bytes + done, std::min(next.bytes, kLargestCall));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) failed(count - done);
    done += static_cast<std::uint64_t>(put);
    written_ += static_cast<std::uint64_t>(put);
  }
}

void FileWriter::flush() {
  require(descriptor_ >= 0, "flush of a closed file");
  write_through(buffer_.data(), buffer_.size());
  buffer_.clear();
}

void FileWriter::sync() {
  flush();
  // EINVAL: a pipe or a device, which has nothing to sync.
  if (::fsync(descriptor_) != 0 && errno != EINVAL) fail_system(path_, "cannot sync to disk", errno);
}

void FileWriter::close() {
  if (descriptor_ < 0) return;
  sync();
  const int descriptor = std::exchange(descriptor_, -1);
  if (::close(descriptor) != 0 && errno != EINTR) fail_system(path_, "cannot close", errno);
}

void write_file_atomic(const fs::path& path, std::string_view content, mode_t mode) {
  std::error_code ignored;
  // Through a symbolic link: the file it leads to changes, the link stays.
  const fs::path target = is_link(path) ? fs::weakly_canonical(path, ignored) : path;
  const fs::path& real = target.empty() ? path : target;
  struct stat old {};
  const bool replaces = ::stat(real.c_str(), &old) == 0;
  if (replaces && !S_ISREG(old.st_mode)) {
    fail(ErrorCode::kIo, "{}: expected a regular file, found {}", path.string(), kind_of(old.st_mode));
  }
  std::string temporary = real.string() + ".tmp-XXXXXX";
  Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (file.get() < 0) fail_system(path, "cannot create a temporary file beside it", errno);
  try {
    for (std::size_t done = 0; done < content.size();) {
      const ssize_t put = ::write(file.get(), content.data() + done, content.size() - done);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0)
        fail_system(path, fmt::format("cannot write {} bytes at {}", content.size() - done, done), errno);
      done += static_cast<std::size_t>(put);
    }
    // mkostemp made it 0600.
    if (::fchmod(file.get(), replaces ? old.st_mode & 07777 : mode) != 0)
      fail_system(path, "cannot set mode", errno);
    if (::fsync(file.get()) != 0)
      fail_system(path, fmt::format("cannot sync {} bytes", content.size()), errno);
    if (::close(file.release()) != 0) fail_system(path, "cannot close", errno);
    if (::rename(temporary.c_str(), real.c_str()) != 0) fail_system(path, "cannot rename into place", errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_path(parent_of(real), O_DIRECTORY);
}

fs::path replaceable_directory(const fs::path& path, std::string_view marker) {
  fs::path place = without_slash(path);
  if (!place.has_filename() || place.filename() == "." || place.filename() == "..") {
    fail(ErrorCode::kUsage, "{}: expected the name of a directory to create",
         path.empty() ? "\"\"" : path.string());
  }
  if (is_link(place)) {
    std::error_code code;
    place = fs::canonical(place, code);
    if (code)
      fail(ErrorCode::kIo, "{}: a symbolic link that leads nowhere: {}", path.string(), code.message());
  }
  check_replaceable(place, std::string(marker));
  return place;
}

StagedDirectory::StagedDirectory(const fs::path& final_path, std::string_view marker)
    : final_(replaceable_directory(final_path, marker)), marker_(marker) {
  std::error_code code;
  fs::create_directories(parent_of(final_), code);
  if (code) fail(ErrorCode::kIo, "{}: cannot create: {}", parent_of(final_).string(), code.message());
  staged_ = final_;
  staged_ += fmt::format(".partial-{}", ::getpid());
  // Only a dead process with our number can have left it.
  fs::remove_all(staged_, code);
  if (::mkdir(staged_.c_str(), 0755) != 0) fail_system(staged_, "cannot create the directory", errno);
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(staged_, ignored);
}

fs::path StagedDirectory::file(std::string_view name) const {
  require(!name.empty() && name.find('/') == name.npos && name != "." && name != "..",
          "a name inside the directory");
  return staged_ / name;
}

void StagedDirectory::commit() {
  require(!committed_, "commit happens once");
  std::error_code code;
  for (auto entry = fs::recursive_directory_iterator(staged_, code); !code && entry != fs::end(entry);
       entry.increment(code)) {
    if (entry->is_regular_file() && !entry->is_symlink()) sync_path(entry->path(), 0);
    if (entry->is_directory() && !entry->is_symlink()) sync_path(entry->path(), O_DIRECTORY);
  }
  if (code) fail(ErrorCode::kIo, "{}: cannot list: {}", staged_.string(), code.message());
  sync_path(staged_, O_DIRECTORY);

  check_replaceable(final_, marker_);  // it may have appeared since
  fs::path old;                        // what the new directory replaced
  if (::renameat2(AT_FDCWD, staged_.c_str(), AT_FDCWD, final_.c_str(), RENAME_NOREPLACE) == 0) {
  } else if (errno == EEXIST &&
             ::renameat2(AT_FDCWD, staged_.c_str(), AT_FDCWD, final_.c_str(), RENAME_EXCHANGE) == 0) {
    old = staged_;
  } else if (!fs::exists(final_, code)) {  // a file system without the flags
    if (::rename(staged_.c_str(), final_.c_str()) != 0)
      fail_system(final_, "cannot rename into place", errno);
  } else {
    old = final_;
    old += fmt::format(".old-{}", ::getpid());
    if (::rename(final_.c_str(), old.c_str()) != 0) fail_system(final_, "cannot move aside", errno);
    if (::rename(staged_.c_str(), final_.c_str()) != 0) {
      const int reason = errno;
      if (::rename(old.c_str(), final_.c_str()) != 0) {
        fail(ErrorCode::kIo, "{}: cannot rename into place: {}; the old directory is at {}", final_.string(),
             std::strerror(reason), old.string());
      }
      fail_system(final_, "cannot rename into place", reason);
    }
  }
  committed_ = true;
  sync_path(parent_of(final_), O_DIRECTORY);
  if (!old.empty()) fs::remove_all(old, code);  // what cannot be removed costs space, not correctness
}

void switch_link(const fs::path& link, const fs::path& target) {
  std::error_code code;
  if (fs::exists(fs::symlink_status(link, code)) && !is_link(link)) {
    fail(ErrorCode::kIo, "{}: expected a symbolic link or nothing, found a file or directory", link.string());
  }
  fs::path temporary = link;
  temporary += fmt::format(".tmp-{}", ::getpid());
  ::unlink(temporary.c_str());
  if (::symlink(target.c_str(), temporary.c_str()) != 0) fail_system(link, "cannot create the link", errno);
  if (::rename(temporary.c_str(), link.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    fail_system(link, "cannot switch the link", reason);
  }
  sync_path(parent_of(link), O_DIRECTORY);
}

}  // namespace stem
