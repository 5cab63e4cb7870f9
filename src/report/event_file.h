// Scalars for TensorBoard: an append-only file of framed records. Format: docs/formats/events.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace stem {

/// CRC-32C (Castagnoli) of `bytes`, reflected, as in RFC 3720.
std::uint32_t crc32c(std::string_view bytes);

/// One TFRecord: length, its masked CRC, `payload`, its masked CRC.
std::string tf_record(std::string_view payload);

/// Writes the events of one run. Nothing is ever rewritten: a killed run leaves a file whose last record may
/// be torn, which TensorBoard takes for the end. A resumed run begins another file that says from which step
/// on the earlier ones no longer count.
class EventFile {
 public:
  /// Begins `directory`/events.out.tfevents.… (created with its parents), with a name that sorts behind those
  /// of earlier files. `first_step` is the first step that will be told, steps_done + 1: TensorBoard drops
  /// what earlier files say of it and of later ones. With `first_step` <= 1 the folder's earlier event files
  /// are removed. Throws kIo.
  explicit EventFile(const std::filesystem::path& directory, std::int64_t first_step = 1);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  /// Adds a value to the curve `tag` ("train/loss"); `wall_time` in seconds since 1970, negative: now.
  void scalar(std::string_view tag, std::int64_t step, double value, double wall_time = -1.0);
  /// Hands everything to the system in one write, whole records only. Also when about 64 kB are waiting, and
  /// when the object dies (then without an error). Throws kIo (disk full).
  void flush();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int file_ = -1;
  std::string waiting_;
};

}  // namespace stem
