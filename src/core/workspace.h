// Scratch memory for one forward or backward pass: a bump allocator whose blocks live until the scope ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/view.h"

namespace stem {

/// 64-byte aligned memory, uninitialised; one allocation.
class Buffer {
 public:
  /// How large the system's pages are to be. Small ones where a large buffer is written here and there: a
  /// page takes memory as a whole.
  enum class Pages { large, small };

  Buffer() = default;
  explicit Buffer(std::size_t bytes);
  /// All bytes zero; of a large buffer, pages take no memory before they are written.
  static Buffer zeroed(std::size_t bytes, Pages pages = Pages::large);
  void* data() const { return memory_.get(); }
  std::size_t size() const { return bytes_; }
  void clear();  ///< all bytes zero

 private:
  struct Free {
    Free() : mapped(0) {}
    explicit Free(std::size_t bytes) : mapped(bytes) {}
    void operator()(void* p) const;
    std::size_t mapped;  // bytes that came from mmap; 0: from the heap
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t bytes_ = 0;
};

/// A contiguous owned matrix: Buffer plus the view over it.
struct Tensor {
  Buffer buffer;
  Out view;

  Tensor() = default;
  Tensor(DType dtype, std::int64_t rows, std::int64_t cols);  ///< zeroed
  /// Zeroed, for a matrix of which a run may write few rows: the others take no memory (Buffer::zeroed).
  static Tensor sparse(DType dtype, std::int64_t rows, std::int64_t cols);
  operator Out() const { return view; }
  operator In() const { return view; }
};

/// Bump allocator. Grows by blocks; never returns memory to the system before it dies, so a training step
/// allocates only the first time. Not thread safe: one per engine thread.
class Workspace {
 public:
  /// Uninitialised [rows, cols], 64-byte aligned, rows contiguous.
  Out matrix(DType dtype, std::int64_t rows, std::int64_t cols);
  void* bytes(std::size_t count);

  template <class T>
  T* array(std::int64_t count) {
    return static_cast<T*>(bytes(static_cast<std::size_t>(count) * sizeof(T)));
  }
  std::size_t capacity() const;  ///< bytes held

  /// Everything allocated inside the scope is released when it ends.
  class Scope {
   public:
    explicit Scope(Workspace& w) : workspace_(w), block_(w.block_), used_(w.used_) {}
    ~Scope() {
      workspace_.block_ = block_;
      workspace_.used_ = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    std::size_t block_, used_;
  };

 private:
  std::vector<Buffer> blocks_;
  std::size_t block_ = 0;  // index of the block in use
  std::size_t used_ = 0;   // bytes used of it
};

}  // namespace stem
