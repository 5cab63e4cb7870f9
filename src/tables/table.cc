#include "tables/table.h"

#include <sys/mman.h>
#include <unistd.h>

namespace stem {

Table Table::absent(TableShape shape) {
  Table table;
  table.shape_ = shape;
  return table;
}

Table Table::in_memory(TableShape shape, DType dtype) {
  Table table;
  table.shape_ = shape;
  table.dtype_ = dtype;
  table.memory_ = std::make_shared<Buffer>(static_cast<std::size_t>(shape.size() * size_of(dtype)));
  table.memory_->clear();
  table.data_ = static_cast<const char*>(table.memory_->data());
  table.writable_ = true;
  return table;
}

Table Table::mapped(const Safetensors& file, TableShape shape) {
  const TensorInfo& info = file.info("stem.table");
  const std::vector<std::int64_t> expected{shape.vocab, shape.layers, shape.width};
  if (info.shape != expected || (info.dtype != DType::f32 && info.dtype != DType::bf16)) {
    fail(ErrorCode::kMismatch, "{}: stem.table: expected F32 or BF16 [{}] (from config.json), found {}",
         file.path(), fmt::join(expected, ", "), info.described());
  }
  Table table;
  table.shape_ = shape;
  table.dtype_ = *info.dtype;
  table.file_ = std::make_shared<Safetensors>(file);
  table.data_ = static_cast<const char*>(table.file_->data("stem.table"));
  return table;
}

const void* Table::record(std::int64_t token) const {
  require(token >= 0 && token < shape_.vocab, "token outside the table");
  return data_ == nullptr ? nullptr : data_ + token * shape_.record() * size_of(dtype_);
}

RowPointer Table::row(std::int64_t token, std::int64_t layer) const {
  const auto* base = static_cast<const char*>(record(token));
  return {base == nullptr ? nullptr : base + layer * shape_.width * size_of(dtype_), 1.0f, dtype_};
}

In Table::records() const {
  return {data_, dtype_, shape_.vocab, shape_.record(), shape_.record()};
}

Out Table::writable_records() {
  require(writable_, "a mapped table cannot be written");
  return {memory_->data(), dtype_, shape_.vocab, shape_.record(), shape_.record()};
}

void Table::read_row(std::int64_t token, std::int64_t layer, std::span<float> values) const {
  const RowPointer pointer = row(token, layer);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (pointer.data == nullptr)
      values[i] = 0.0f;
    else if (dtype_ == DType::f32)
      values[i] = static_cast<const float*>(pointer.data)[i];
    else if (dtype_ == DType::bf16)
      values[i] = static_cast<float>(static_cast<const bf16*>(pointer.data)[i]);
    else
      values[i] = static_cast<float>(static_cast<const double*>(pointer.data)[i]);
  }
}

void Table::prefetch(std::span<const std::int32_t> tokens) const {
  if (file_ == nullptr) return;
  static const auto kPage = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto bytes = static_cast<std::uintptr_t>(shape_.record() * size_of(dtype_));
  for (const std::int32_t token : tokens) {
    const auto begin = reinterpret_cast<std::uintptr_t>(record(token));
    const std::uintptr_t first = begin / kPage * kPage;
    madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_WILLNEED);
  }
}

}  // namespace stem
