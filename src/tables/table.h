// The STEM table: for every token one record, its rows in all STEM layers lying together ([V][S][F],
// stem-spec §5).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/rows.h"
#include "core/workspace.h"
#include "io/safetensors.h"

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

/// A table in memory or mapped from a file. An absent table (no data) reads as zeros: that is how
/// stem_additive starts.
class Table {
 public:
  Table() = default;

  /// No data: every row of this shape reads as zeros.
  static Table absent(TableShape shape);
  /// Writable, zeroed, in memory. dtype f32 (f64 in the oracle).
  static Table in_memory(TableShape shape, DType dtype);
  /// Read-only view of the tensor `stem.table` [V, S, F] in `file` (f32 or bf16), pages loaded on demand.
  /// Throws kMismatch when the tensor's shape or dtype is not as expected.
  static Table mapped(const Safetensors& file, TableShape shape);

  const TableShape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  bool present() const { return data_ != nullptr; }
  bool writable() const { return writable_; }

  /// The record of `token`: [S, F] contiguous; null when the table is absent.
  const void* record(std::int64_t token) const;
  /// The address (token, layer) as kernels read it; `layer` counts STEM layers, 0 .. S-1.
  RowPointer row(std::int64_t token, std::int64_t layer) const;
  /// All records as a matrix [V, S·F]. `writable_records` only for tables in memory.
  In records() const;
  Out writable_records();

  /// Copies one row to f32.
  void read_row(std::int64_t token, std::int64_t layer, std::span<float> values) const;

  /// Starts loading the records of these tokens (a hint; only mapped tables have anything to do). The layer
  /// loop calls prefetch, acquire, release (RowPlan); the ids alone say which records come next.
  void prefetch(std::span<const std::int32_t> tokens) const;

 private:
  TableShape shape_;
  DType dtype_ = DType::f32;
  const char* data_ = nullptr;
  bool writable_ = false;
  std::shared_ptr<Buffer> memory_;
  std::shared_ptr<Safetensors> file_;
};

}  // namespace stem
