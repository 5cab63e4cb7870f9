#include "io/gguf_header.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "io/json.h"

namespace stem::gguf {

HeaderReader::HeaderReader(const MappedFile& file)
    : file_(file), limit_(std::min(file.size(), kMaxHeader)), buffer_(std::size_t{64} << 10) {}

std::string HeaderReader::where(const Place& place, std::string_view field) const {
  std::string text = file_.path().string() + ": ";
  if (!place.kind.empty()) text += fmt::format("{} {}", place.kind, place.index);
  if (!place.name.empty()) text += " " + shown(Json(place.name));
  if (!place.kind.empty()) text += ": ";
  return text.append(field);
}

void HeaderReader::need(std::uint64_t count, const Place& place, std::string_view field) const {
  if (count <= remaining()) return;
  if (count <= file_.size() - position_) {
    fail(ErrorCode::kFormat, "{}: expected a header of at most {} bytes, found {} more at byte {}",
         where(place, field), kMaxHeader, count, position_);
  }
  fail(ErrorCode::kFormat, "{}: expected {} bytes at byte {}, found the end of the file at {}",
       where(place, field), count, position_, file_.size());
}

void HeaderReader::read(char* to, std::uint64_t count, const Place& place, std::string_view field) {
  need(count, place, field);
  while (count > 0) {
    std::uint64_t skip = position_ - buffer_start_;
    if (skip == buffer_size_) {
      buffer_start_ = position_;
      buffer_size_ = std::min<std::uint64_t>(buffer_.size(), remaining());
      file_.read_at(buffer_start_, buffer_.data(), buffer_size_);
      skip = 0;
    }
    const std::uint64_t piece = std::min(count, buffer_size_ - skip);
    std::memcpy(to, buffer_.data() + skip, piece);
    to += piece;
    position_ += piece;
    count -= piece;
  }
}

std::string HeaderReader::bytes(std::uint64_t count, const Place& place, std::string_view field) {
  need(count, place, field);
  std::string result(count, '\0');
  read(result.data(), count, place, field);
  return result;
}

std::uint32_t HeaderReader::u32(const Place& place, std::string_view field) {
  std::array<char, 4> found{};
  read(found.data(), found.size(), place, field);
  return static_cast<std::uint32_t>(little_endian(found.data(), found.size()));
}

std::uint64_t HeaderReader::u64(const Place& place, std::string_view field) {
  std::array<char, 8> found{};
  read(found.data(), found.size(), place, field);
  return little_endian(found.data(), found.size());
}

std::string HeaderReader::text(const Place& place, std::string_view field) {
  return bytes(u64(place, field), place, field);
}

std::string HeaderReader::name(std::uint64_t max, const Place& place, std::string_view field) {
  const std::uint64_t length = u64(place, field);
  if (length == 0 || length > max) {
    fail(ErrorCode::kFormat, "{}: expected 1 to {} bytes, found {}", where(place, field), max, length);
  }
  std::string result = bytes(length, place, field);
  const auto printable = [](char c) { return c > ' ' && c <= '~'; };
  if (!std::all_of(result.begin(), result.end(), printable)) {
    fail(ErrorCode::kFormat, "{}: expected printable ASCII without spaces, found {}", where(place, field),
         shown(Json(result)));
  }
  return result;
}

}  // namespace stem::gguf
