#include "tables/table.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "io/row_format.h"
#include "tables/record_error.h"

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
  return open(file, shape);
}

namespace {

// The tensor, and the format of its rows where the metadata names one.
std::pair<const TensorInfo*, std::optional<WeightFormat>> table_tensor(const Safetensors& file,
                                                                       const TableShape& shape) {
  const TensorInfo& info = file.info("stem.table");
  const auto format = row_format(file, "stem.table");
  std::vector<std::int64_t> expected{shape.vocab, shape.layers, shape.width};
  if (!format) {
    if (info.shape != expected || (info.dtype != DType::f32 && info.dtype != DType::bf16)) {
      fail(ErrorCode::kMismatch, "{}: stem.table: expected F32 or BF16 [{}] (from config.json), found {}",
           file.path(), fmt::join(expected, ", "), info.described());
    }
    return {&info, std::nullopt};
  }
  expected = {shape.vocab, shape.layers * stored_row_bytes(*format, shape.width)};
  if (info.shape != expected || info.dtype != DType::u8) {
    fail(ErrorCode::kMismatch,
         "{}: stem.table: expected U8 [{}] ({} rows of {} values, from config.json), found {}", file.path(),
         fmt::join(expected, ", "), name_of(*format), shape.width, info.described());
  }
  return {&info, format};
}

// By pread: a file that is cut meanwhile is an error here, not a signal.
std::shared_ptr<Buffer> copy_of(const Safetensors& file, const TensorInfo& info) {
  constexpr std::uint64_t kPiece = std::uint64_t{64} << 20;
  auto memory = std::make_shared<Buffer>(static_cast<std::size_t>(info.bytes));
  for (std::uint64_t done = 0; done < info.bytes; done += kPiece) {
    file.file().read_at(info.offset + done, static_cast<char*>(memory->data()) + done,
                        std::min(kPiece, info.bytes - done));
  }
  return memory;
}

}  // namespace

Table Table::open(const Safetensors& file, TableShape shape, const TableOptions& options) {
  using Kind = TablePlacement::Kind;
  const auto [tensor, format] = table_tensor(file, shape);
  const TensorInfo& info = *tensor;
  Table table;
  table.shape_ = shape;
  table.dtype_ = format ? DType::f32 : *info.dtype;
  table.stored_ = format;
  table.placement_ = options.placement;
  const Kind kind = options.placement.kind;
  const auto record = static_cast<std::uint64_t>(table.record_bytes());
  if (kind == Kind::disk || (kind == Kind::mapped && options.verifier)) {
    ReadQueueOptions read = options.read;
    std::int64_t budget = options.placement.budget_bytes;
    if (kind == Kind::mapped) {
      read.direct = false;  // the page cache stays what serves it
      budget =
          std::max(std::min(kVerifiedBudgetBytes, shape.vocab * table.record_bytes()), table.record_bytes());
    }
    table.store_ = std::make_shared<RecordStore>(RecordFile{file.path(), info.offset, record, shape.vocab},
                                                 budget, read, options.verifier);
    return table;
  }
  if (kind == Kind::memory) {
    table.memory_ = copy_of(file, info);
    table.data_ = static_cast<const char*>(table.memory_->data());
    for (std::int64_t t = 0; options.verifier && t < shape.vocab; ++t)
      options.verifier(static_cast<std::int32_t>(t),
                       {static_cast<const std::byte*>(table.record(t)), record});
    return table;
  }
  table.file_ = std::make_shared<Safetensors>(file);
  table.guard_ = std::make_shared<MapGuard>(table.file_->file());
  table.offset_ = info.offset;
  table.data_ = static_cast<const char*>(table.file_->data(info));
  return table;
}

const void* Table::record(std::int64_t token) const {
  require(token >= 0 && token < shape_.vocab, "token outside the table");
  require(store_ == nullptr, "a table on disk has no address");
  return data_ == nullptr ? nullptr : data_ + token * record_bytes();
}

RowPointer Table::row(std::int64_t token, std::int64_t layer) const {
  const auto* base = static_cast<const char*>(record(token));
  return {base == nullptr ? nullptr : base + layer * row_bytes(), 1.0f, dtype_, stored_};
}

In Table::records() const {
  require(store_ == nullptr, "a table on disk has no address");
  require(!stored_, "stored rows are no matrix");
  return {data_, dtype_, shape_.vocab, shape_.record(), shape_.record()};
}

Out Table::writable_records() {
  require(writable_, "a mapped table cannot be written");
  return {memory_->data(), dtype_, shape_.vocab, shape_.record(), shape_.record()};
}

void Table::copy_row(std::int64_t token, std::int64_t layer, void* to) const {
  copy_bytes(token, layer * row_bytes(), row_bytes(), to);
}

void Table::copy_bytes(std::int64_t token, std::int64_t first, std::int64_t count, void* to) const {
  require(first >= 0 && first + count <= record_bytes(), "bytes inside the record");
  const auto offset = static_cast<std::size_t>(first), bytes = static_cast<std::size_t>(count);
  const auto id = static_cast<std::int32_t>(token);
  if (store_ != nullptr) {
    RecordLease lease(store_);
    lease.add({&id, 1});
    const std::vector<RecordFailure> failures = lease.wait();
    if (!failures.empty()) throw RecordError(failures[0].code, failures[0].message, {id}, {});
    std::memcpy(to, static_cast<const char*>(lease.data(id)) + offset, bytes);
    return;
  }
  const auto* const from = static_cast<const char*>(record(token));
  if (from == nullptr)
    std::memset(to, 0, bytes);
  else
    std::memcpy(to, from + offset, bytes);
  if (any_lost() && lost(token)) throw RecordError(ErrorCode::kIo, lost_text(token), {id}, {});
}

void Table::read_row(std::int64_t token, std::int64_t layer, std::span<float> values) const {
  const auto count = static_cast<std::int64_t>(values.size());
  const std::int64_t first = layer * row_bytes();
  if (stored_) {
    std::vector<std::byte> row(static_cast<std::size_t>(row_bytes()));
    const auto width = static_cast<std::size_t>(shape_.width);
    for (std::size_t at = 0; at < values.size(); at += width, ++layer) {
      copy_row(token, layer, row.data());
      std::span<float> to = values.subspan(at, std::min(width, values.size() - at));
      if (present())
        stem::read_row(*stored_, row.data(), to);
      else
        std::fill(to.begin(), to.end(), 0.0f);
    }
    return;
  }
  const auto convert = [&]<class T>(T*) {
    std::vector<T> plain(values.size());
    copy_bytes(token, first, count * size_of(dtype_), plain.data());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(plain[i]);
  };
  if (dtype_ == DType::f32)
    copy_bytes(token, first, count * size_of(dtype_), values.data());
  else if (dtype_ == DType::bf16)
    convert(static_cast<bf16*>(nullptr));
  else
    convert(static_cast<double*>(nullptr));
}

void Table::prefetch(std::span<const std::int32_t> tokens) const {
  if (store_ != nullptr) return store_->prefetch(tokens);
  if (file_ == nullptr) return;
  static const auto kPage = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto bytes = static_cast<std::uintptr_t>(record_bytes());
  for (const std::int32_t token : tokens) {
    const auto begin = reinterpret_cast<std::uintptr_t>(record(token));
    const std::uintptr_t first = begin / kPage * kPage;
    madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_WILLNEED);
  }
}

bool Table::lost(std::int64_t token) const {
  const auto bytes = static_cast<std::uint64_t>(record_bytes());
  return guard_ != nullptr && guard_->lost(offset_ + static_cast<std::uint64_t>(token) * bytes, bytes);
}

std::string Table::lost_text(std::int64_t token) const {
  return fmt::format(
      "{}: record of token {}: expected {} bytes, found them lost: the file was cut while in "
      "use, or the disk failed",
      path(), token, record_bytes());
}

void Table::verify() const {
  if (!any_lost()) return;
  for (std::int64_t t = 0; t < shape_.vocab; ++t) {
    if (lost(t)) throw RecordError(ErrorCode::kIo, lost_text(t), {static_cast<std::int32_t>(t)}, {});
  }
}

}  // namespace stem
