// A mapped file that somebody cuts raises SIGBUS where its lost pages are touched. A guard turns that into
// zeros and a mark, so that the computation that read them can be thrown away and the process lives.
#pragma once

#include <cstdint>

#include "io/file.h"

namespace stem {

/// Guards one mapped file while it lives; the map must outlive the guard. A page of it that cannot be read
/// (beyond the file's new end, or a disk error) reads as zeros from then on and counts as lost. A SIGBUS
/// elsewhere goes to the handler that was installed before the first guard.
class MapGuard {
 public:
  /// Throws kIo when 256 guards live already.
  explicit MapGuard(const MappedFile& file);
  ~MapGuard();
  MapGuard(const MapGuard&) = delete;
  MapGuard& operator=(const MapGuard&) = delete;

  /// Whether anything was lost since the file was mapped: a page that was touched, or the file's end. One
  /// call of fstat.
  bool any_lost() const;
  /// Whether any of the bytes [offset, offset + bytes) of the file are lost.
  bool lost(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  const MappedFile& file_;
  std::size_t region_ = 0;  // in the handler's list
};

}  // namespace stem
