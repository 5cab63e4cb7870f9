#include "edit/reference_rows.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "io/read_queue.h"

namespace stem {
namespace {

constexpr const char* kMeans = "stem.table";  // a table like any other
constexpr const char* kOccurrences = "occurrences";

}  // namespace

std::optional<ReferenceRows> open_reference_rows(const std::filesystem::path& directory,
                                                 const ModelConfig& config) {
  const std::filesystem::path path = directory / kReferenceFile;
  if (!std::filesystem::exists(path)) return std::nullopt;
  if (config.variant != FfnVariant::stem_additive) {
    fail(ErrorCode::kMismatch, "{}: expected ffn_variant stem_additive beside reference rows, found {}",
         path.string(), name_of(config.variant));
  }
  const Safetensors file = Safetensors::open(path);
  ReferenceRows rows{Table::mapped(file, config.table_shape()), {}};
  const std::int64_t shape[] = {config.vocab};
  const TensorInfo& info = file.expect(kOccurrences, DType::i64, shape);
  rows.occurrences.resize(static_cast<std::size_t>(config.vocab));
  std::memcpy(rows.occurrences.data(), file.data(info), info.bytes);
  const auto negative =
      std::find_if(rows.occurrences.begin(), rows.occurrences.end(), [](auto n) { return n < 0; });
  if (negative != rows.occurrences.end()) {
    fail(ErrorCode::kFormat, "{}: {}: expected no negative count, found {} at token {}", path.string(),
         kOccurrences, *negative, negative - rows.occurrences.begin());
  }
  return rows;
}

ReferenceRowsWriter::ReferenceRowsWriter(const std::filesystem::path& directory, TableShape shape,
                                         std::vector<std::int64_t> occurrences)
    : occurrences_(std::move(occurrences)),
      writer_(directory / kReferenceFile,
              {{kMeans, DType::bf16, {shape.vocab, shape.layers, shape.width}},
               {kOccurrences, DType::i64, {std::ssize(occurrences_)}}},
              {}, kDirectBlockBytes) {}

void ReferenceRowsWriter::write(In records) {
  writer_.write(kMeans, records.data, static_cast<std::uint64_t>(records.size()) * sizeof(bf16));
}

void ReferenceRowsWriter::close() {
  writer_.write(kOccurrences, occurrences_.data(), occurrences_.size() * sizeof(std::int64_t));
  writer_.close();
}

}  // namespace stem
