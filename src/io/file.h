// Files: bounded reads, read-only maps, checked writes, and changes that are either whole or absent.
// Every failure is an Error (kNotFound when the file is absent, else kIo) that names the file and what the
// system said.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace stem {

/// The bytes of a regular file (links are followed). Directories, FIFOs, devices and link cycles are refused
/// without blocking; a file larger than `max_bytes` is an Error of kFormat before any memory is taken.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes = std::uint64_t{1} << 30);

/// A read-only map of a whole regular file, shared by the page cache. The mapped bytes belong to the file: if
/// another process truncates it, touching the lost pages raises SIGBUS; `read_at` copies with checks instead.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }  ///< null for an empty file
  std::uint64_t size() const { return size_; }     ///< bytes, when it was opened
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

  /// Bytes that the file has now: fewer than size() when somebody cut it, 0 when the system cannot tell.
  std::uint64_t current_size() const;

  /// Copies bytes [offset, offset + count) into `to` by pread: a file that was cut after it was mapped is an
  /// Error, not a signal. Thread safe.
  void read_at(std::uint64_t offset, void* to, std::uint64_t count) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
  int descriptor_ = -1;
};

/// Writes a new file (an existing one is truncated) front to back. Every byte is checked; nothing counts as
/// written before `close` returns. Whole blocks of zeros become holes: they read as zeros and take no disk.
/// The destructor closes without a word: use it only on the way out of a
/// failure.
class FileWriter {
 public:
  explicit FileWriter(const std::filesystem::path& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* bytes, std::uint64_t count);
  void write(std::string_view text) { write(text.data(), text.size()); }
  std::uint64_t position() const { return position_; }  ///< bytes accepted so far
  void flush();                                         ///< hands what is buffered to the system
  void sync();                                          ///< flush, then fsync: on the disk when it returns
  void close();  ///< flush, fsync and close; a second call does nothing
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_through(const char* bytes, std::uint64_t count);

  std::filesystem::path path_;
  std::vector<char> buffer_;
  std::uint64_t position_ = 0;  // includes what is buffered
  std::uint64_t written_ = 0;   // what the system took
  int descriptor_ = -1;
  bool may_have_holes_ = false;
};

/// Replaces a file by `content`, whole or not at all: a temporary file in the same directory, fsync, rename,
/// fsync of the directory. On failure the old file is untouched and the temporary one is removed. An existing
/// file keeps its permissions; a new one gets `mode`.
void write_file_atomic(const std::filesystem::path& path, std::string_view content, mode_t mode = 0644);

/// The directory that a StagedDirectory of these arguments would make, links followed; throws what it would.
std::filesystem::path replaceable_directory(const std::filesystem::path& path,
                                            std::string_view marker = "stem.json");

/// A directory that appears whole or not at all. Files go to a sibling `<final>.partial-<pid>` (one at a time
/// per final path and process); `commit` syncs them and renames it into place. Without commit the destructor
/// removes it.
class StagedDirectory {
 public:
  /// Creates the staged directory (and missing parents). An existing `final_path` will be replaced only if it
  /// is a directory that is empty or holds `marker`, so that a mistyped path never costs somebody's files;
  /// else kUsage.
  explicit StagedDirectory(const std::filesystem::path& final_path, std::string_view marker = "stem.json");
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  /// Where to write file `name` (a name, not a path).
  std::filesystem::path file(std::string_view name) const;
  const std::filesystem::path& path() const { return staged_; }       ///< the staged directory
  const std::filesystem::path& final_path() const { return final_; }  ///< where it will be

  /// fsync of every file and directory, rename (an old directory is exchanged atomically where the file
  /// system can, else moved aside first, and removed afterwards), fsync of the parent. On failure the old
  /// directory remains.
  void commit();

 private:
  std::filesystem::path final_, staged_;
  std::string marker_;
  bool committed_ = false;
};

/// Makes `link` a symbolic link to `target` (stored as given, so usually relative), atomically; anything at
/// `link` that is not a symbolic link is an Error.
void switch_link(const std::filesystem::path& link, const std::filesystem::path& target);

}  // namespace stem
