#include "core/workspace.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace stem {
namespace {
constexpr std::size_t kAlign = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMinBlock = std::size_t{16} << 20;
}  // namespace

void Buffer::Free::operator()(void* p) const {
  if (mapped > 0)
    munmap(p, mapped);
  else
    std::free(p);
}

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  const std::size_t align = bytes >= kHugePage ? kHugePage : kAlign;
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + align - 1) / align * align;
  void* p = std::aligned_alloc(align, rounded);
  if (p == nullptr) throw std::bad_alloc();
  if (align == kHugePage) madvise(p, rounded, MADV_HUGEPAGE);  // a hint; refusal changes only the speed
  memory_.reset(p);
}

Buffer Buffer::zeroed(std::size_t bytes, Pages pages) {
  if (bytes < kHugePage) {
    Buffer small(bytes);
    small.clear();
    return small;
  }
  // The system's own pages of zeros: none is taken before it is written. What is too much, so that the rest
  // begins at a huge page, goes back at once.
  const std::size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage, mapped = rounded + kHugePage;
  void* const p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  auto* const base = static_cast<char*>(p);
  const std::size_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(base) % kHugePage) % kHugePage;
  if (before > 0) munmap(base, before);
  munmap(base + before + rounded, kHugePage - before);
  madvise(base + before, rounded, pages == Pages::large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  Buffer buffer;
  buffer.memory_ = {base + before, Free{rounded}};
  buffer.bytes_ = bytes;
  return buffer;
}

void Buffer::clear() {
  if (bytes_ > 0) std::memset(memory_.get(), 0, bytes_);
}

Tensor::Tensor(DType dtype, std::int64_t rows, std::int64_t cols)
    : buffer(static_cast<std::size_t>(rows * cols * size_of(dtype))),
      view{buffer.data(), dtype, rows, cols, cols} {
  buffer.clear();
}

Tensor Tensor::sparse(DType dtype, std::int64_t rows, std::int64_t cols) {
  Tensor tensor;
  tensor.buffer =
      Buffer::zeroed(static_cast<std::size_t>(rows * cols * size_of(dtype)), Buffer::Pages::small);
  tensor.view = {tensor.buffer.data(), dtype, rows, cols, cols};
  return tensor;
}

void* Workspace::bytes(std::size_t count) {
  count = (count + kAlign - 1) / kAlign * kAlign;
  while (block_ < blocks_.size() && used_ + count > blocks_[block_].size()) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    blocks_.emplace_back(std::max(count, kMinBlock));
    used_ = 0;
  }
  void* p = static_cast<char*>(blocks_[block_].data()) + used_;
  used_ += count;
  return p;
}

Out Workspace::matrix(DType dtype, std::int64_t rows, std::int64_t cols) {
  return {bytes(static_cast<std::size_t>(rows * cols * size_of(dtype))), dtype, rows, cols, cols};
}

std::size_t Workspace::capacity() const {
  std::size_t total = 0;
  for (const Buffer& b : blocks_) total += b.size();
  return total;
}

}  // namespace stem
