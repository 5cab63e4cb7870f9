// The STEM table: for every token one record, its rows in all STEM layers lying together ([V][S][F],
// stem-spec §5).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/rows.h"
#include "core/workspace.h"
#include "io/map_guard.h"
#include "io/safetensors.h"
#include "tables/placement.h"
#include "tables/record_store.h"

namespace stem {

/// V tokens × S STEM layers × F values.
struct TableShape {
  std::int64_t vocab = 0;   ///< V
  std::int64_t layers = 0;  ///< S
  std::int64_t width = 0;   ///< F

  std::int64_t record() const { return layers * width; }  ///< values in one record
  std::int64_t size() const { return vocab * record(); }
  bool operator==(const TableShape&) const = default;
};

/// How to open a table's file.
struct TableOptions {
  TablePlacement placement = {};
  RowVerifier verifier = {};   ///< sees every record before it is used: of a mapped table too, which then is
                               ///< read through a cache of kVerifiedBudgetBytes
  ReadQueueOptions read = {};  ///< for tests and measurements; of a placement on disk
};
inline constexpr std::int64_t kVerifiedBudgetBytes = std::int64_t{256} << 20;

/// A table in memory, mapped from a file, or read from disk record by record. An absent table (no data) reads
/// as zeros: that is how stem_additive starts. Copies share the data. Kernels read through a RowPlan, which
/// works for all of them; `record`, `row` and `records` are for tables that have an address.
class Table {
 public:
  Table() = default;

  /// No data: every row of this shape reads as zeros.
  static Table absent(TableShape shape);
  /// Writable, zeroed, in memory. dtype f32 (f64 in the oracle).
  static Table in_memory(TableShape shape, DType dtype);
  /// Read-only view of the tensor `stem.table` in `file`, pages loaded on demand: [V, S, F] f32 or bf16, or
  /// stored rows, U8 [V, S · stored_row_bytes], with their format named in the metadata. Throws kMismatch
  /// when the tensor's shape or dtype is not as expected.
  static Table mapped(const Safetensors& file, TableShape shape);
  /// The same tensor where `options` places it. Also throws kUsage for a budget below one record, kIo.
  static Table open(const Safetensors& file, TableShape shape, const TableOptions& options = {});

  const TableShape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }  ///< of its values; f32 where rows are stored in fewer bits
  std::optional<WeightFormat> stored() const {
    return stored_;
  }  ///< format of its rows, where that is not dtype()
  bool present() const { return data_ != nullptr || store_ != nullptr; }
  bool writable() const { return writable_; }
  const TablePlacement& placement() const { return placement_; }
  /// Where records are read from as they are needed; null for the other tables.
  const std::shared_ptr<RecordStore>& store() const { return store_; }
  std::int64_t row_bytes() const {
    return stored_ ? stored_row_bytes(*stored_, shape_.width) : shape_.width * size_of(dtype_);
  }
  std::int64_t record_bytes() const { return shape_.layers * row_bytes(); }

  /// The record of `token`: its rows, contiguous; null when the table is absent.
  const void* record(std::int64_t token) const;
  /// The address (token, layer) as kernels read it; `layer` counts STEM layers, 0 .. S-1.
  RowPointer row(std::int64_t token, std::int64_t layer) const;
  /// All records as a matrix [V, S·F], unless `stored`. `writable_records` only for tables in memory.
  In records() const;
  Out writable_records();

  /// Copies one row to f32, from any table; more values than F go on with the record's next rows. Throws
  /// RecordError when it cannot be had.
  void read_row(std::int64_t token, std::int64_t layer, std::span<float> values) const;
  /// Copies one row as it is stored, row_bytes() (zeros when absent), from any table. Throws
  /// RecordError.
  void copy_row(std::int64_t token, std::int64_t layer, void* to) const;

  /// Starts loading the records of these tokens and returns (a hint; tables in memory have nothing to do).
  /// The ids alone say which records come next: call it for a prompt as it is admitted, for a token as it is
  /// sampled, for the likeliest candidates before. The layer loop calls prefetch, acquire, release (RowPlan).
  void prefetch(std::span<const std::int32_t> tokens) const;
  /// Throws RecordError if any part of a mapped file was lost (cut, disk error): after reading all of it
  /// through `records`.
  void verify() const;
  /// Whether the bytes of this record were lost under a mapped table.
  bool lost(std::int64_t token) const;
  /// Whether any were; cheap.
  bool any_lost() const { return guard_ != nullptr && guard_->any_lost(); }
  std::string lost_text(std::int64_t token) const;  ///< the message of the RecordError
  std::string path() const { return file_ == nullptr ? std::string() : file_->path(); }

 private:
  void copy_bytes(std::int64_t token, std::int64_t offset, std::int64_t count, void* to) const;

  TableShape shape_;
  DType dtype_ = DType::f32;
  std::optional<WeightFormat> stored_;
  const char* data_ = nullptr;
  bool writable_ = false;
  TablePlacement placement_{TablePlacement::Kind::memory, 0};
  std::uint64_t offset_ = 0;  // of the data in a mapped file
  std::shared_ptr<Buffer> memory_;
  std::shared_ptr<Safetensors> file_;
  std::shared_ptr<MapGuard> guard_;  // after file_: it goes first
  std::shared_ptr<RecordStore> store_;
};

}  // namespace stem
