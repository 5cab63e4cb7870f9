#include "io/gguf.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "core/names.h"
#include "io/gguf_header.h"
#include "io/json.h"

namespace stem {
namespace {

using gguf::HeaderReader;
using gguf::Place;

constexpr std::uint64_t kMaxKeys = 65'536, kMaxTensors = 100'000;  // real files: about 50 and 1,500
constexpr std::uint64_t kMaxStrings = 4'000'000;                   // the largest vocabularies have 800,000
constexpr std::uint64_t kMaxKeyBytes = 65'535, kMaxNameBytes = 64, kMaxRank = 4;
constexpr std::uint64_t kMinAlignment = 8, kMaxAlignment = 65'536;
constexpr std::string_view kAlignmentKey = "general.alignment";

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool multiply(std::uint64_t a, std::uint64_t b, std::uint64_t* product) {
  return !__builtin_mul_overflow(a, b, product);
}

// Reads metadata entries and tensor infos; counts strings over the whole file.
class EntryReader {
 public:
  explicit EntryReader(HeaderReader& in) : in_(in) {}

  Gguf::Value value(const Place& place) {
    Gguf::Value value;
    value.type = value_type(place, "type", true);
    if (value.type == gguf::kArray) {
      value.is_array = true;
      value.type = value_type(place, "element type", false);
      value.count = in_.u64(place, "array length");
    }
    if (value.type == gguf::kString) {
      read_strings(place, &value);
      return value;
    }
    std::uint64_t bytes = 0;
    if (!multiply(value.count, gguf::kValueTypeInfo[value.type].bytes, &bytes)) {
      fail(ErrorCode::kFormat, "{}: the size of {} values overflows", in_.where(place, "array length"),
           value.count);
    }
    value.bytes = in_.bytes(bytes, place, "value");
    if (value.type == gguf::kBool &&
        std::any_of(value.bytes.begin(), value.bytes.end(), [](char c) { return c != 0 && c != 1; })) {
      fail(ErrorCode::kFormat, "{}: expected a bool of 0 or 1, found another byte",
           in_.where(place, "value"));
    }
    return value;
  }

  // All but `bytes`; `offset` counts from the first data byte, as in the file.
  GgufTensor tensor(std::uint64_t index, std::uint64_t* size) {
    Place place{"tensor", index, {}};
    GgufTensor tensor;
    tensor.name = in_.name(kMaxNameBytes, place, "name");
    place.name = tensor.name;
    const std::uint32_t rank = in_.u32(place, "dimensions");
    if (rank > kMaxRank) {
      fail(ErrorCode::kFormat, "{}: expected at most {}, found {}", in_.where(place, "dimensions"), kMaxRank,
           rank);
    }
    std::uint64_t product = 1;  // without extents of zero, so that no part of the product overflows
    bool empty = false;
    for (std::uint32_t i = 0; i < rank; ++i) {
      const std::uint64_t extent = in_.u64(place, "shape");
      empty = empty || extent == 0;
      if (extent >> 63 != 0 || !multiply(product, std::max<std::uint64_t>(extent, 1), &product) ||
          product >> 63 != 0) {
        fail(ErrorCode::kFormat, "{}: the size overflows: extent {} on top of {}", in_.where(place, "shape"),
             extent, shape_text(tensor.shape));
      }
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(extent));
    }
    const std::uint32_t number = in_.u32(place, "type");
    const std::optional<GgmlType> type = ggml_type(number);
    if (!type) {
      fail(ErrorCode::kFormat, "{}: expected a type of the format, found {}", in_.where(place, "type"),
           number);
    }
    tensor.type = *type;
    if (tensor.cols() % block_values(*type) != 0) {
      fail(ErrorCode::kFormat, "{}: expected rows of a multiple of {} values, found {}",
           in_.where(place, "shape"), block_values(*type), tensor.described());
    }
    const std::uint64_t elements = empty ? 0 : product;
    if (!multiply(elements / static_cast<std::uint64_t>(block_values(*type)),
                  static_cast<std::uint64_t>(block_bytes(*type)), size)) {
      fail(ErrorCode::kFormat, "{}: the size of {} overflows", in_.where(place, "shape"), tensor.described());
    }
    tensor.offset = in_.u64(place, "offset");
    return tensor;
  }

 private:
  std::uint32_t value_type(const Place& place, std::string_view field, bool array) {
    const std::uint32_t type = in_.u32(place, field);
    if (type >= gguf::kValueTypes) {
      fail(ErrorCode::kFormat, "{}: expected a value type below {}, found {}", in_.where(place, field),
           static_cast<std::uint32_t>(gguf::kValueTypes), type);
    }
    if (type == gguf::kArray && !array) {
      fail(ErrorCode::kFormat, "{}: expected no array inside an array", in_.where(place, field));
    }
    return type;
  }

  void read_strings(const Place& place, Gguf::Value* value) {
    if (!value->is_array) {
      value->bytes = in_.text(place, "value");
      return;
    }
    if (value->count > kMaxStrings - strings_) {
      fail(ErrorCode::kFormat, "{}: expected at most {} strings in the file, found {} more after {}",
           in_.where(place, "array length"), kMaxStrings, value->count, strings_);
    }
    in_.need(8 * value->count, place, "array length");  // before memory is taken
    strings_ += value->count;
    value->strings.reserve(value->count);
    for (std::uint64_t i = 0; i < value->count; ++i) value->strings.push_back(in_.text(place, "value"));
  }

  HeaderReader& in_;
  std::uint64_t strings_ = 0;
};

std::uint64_t count_of(HeaderReader& in, std::string_view field, std::uint64_t max) {
  const std::uint64_t count = in.u64({}, field);
  if (count > max) {
    fail(ErrorCode::kFormat, "{}: expected at most {}, found {}", in.where({}, field), max, count);
  }
  return count;
}

std::uint32_t read_version(HeaderReader& in) {
  if (in.bytes(4, {}, "magic") != "GGUF") {
    fail(ErrorCode::kFormat, "{}: expected \"GGUF\" at byte 0", in.where({}, "magic"));
  }
  const std::uint32_t version = in.u32({}, "version");
  if (version == 2 || version == 3) return version;
  if (version != 0 && (version & 0xffffu) == 0) {  // the bytes of a small number, reversed
    fail(ErrorCode::kFormat, "{}: expected a little-endian file, found a big-endian one",
         in.where({}, "version"));
  }
  fail(ErrorCode::kFormat, "{}: expected 2 or 3, found {}", in.where({}, "version"), version);
}

std::uint64_t alignment_of(const Gguf::Value& value, const std::string& file) {
  const bool typed = value.type == gguf::kU32 && !value.is_array;
  const std::uint64_t alignment = typed ? gguf::little_endian(value.bytes.data(), 4) : 0;
  if (alignment < kMinAlignment || alignment > kMaxAlignment || !std::has_single_bit(alignment)) {
    fail(ErrorCode::kFormat, "{}: {}: expected a power of two in [{}, {}] as uint32, found {}", file,
         kAlignmentKey, kMinAlignment, kMaxAlignment, value.described());
  }
  return alignment;
}

// Turns offsets from the first data byte into offsets in the file and sets `bytes`.
void place_tensors(const MappedFile& file, std::uint64_t data_start, std::uint64_t alignment,
                   std::span<const std::uint64_t> sizes, std::span<GgufTensor> tensors) {
  const std::string path = file.path().string();
  const std::uint64_t available = file.size() > data_start ? file.size() - data_start : 0;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& tensor = tensors[i];
    if (tensor.offset % alignment != 0) {
      fail(ErrorCode::kFormat, "{}: {}: offset: expected a multiple of {}, found {}", path,
           shown(Json(tensor.name)), alignment, tensor.offset);
    }
    if (tensor.offset > available || sizes[i] > available - tensor.offset) {
      // An empty tensor may sit behind the last byte: the padding before it need not have been written.
      if (sizes[i] > 0 || tensor.offset > available + alignment) {
        fail(ErrorCode::kFormat,
             "{}: {}: offset: {} takes {} bytes at {} of the data, found {} bytes of data", path,
             shown(Json(tensor.name)), tensor.described(), sizes[i], tensor.offset, available);
      }
    }
    if (sizes[i] > 0) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return tensors[a].offset < tensors[b].offset; });
  for (std::size_t k = 1; k < order.size(); ++k) {
    const GgufTensor &before = tensors[order[k - 1]], &tensor = tensors[order[k]];
    if (tensor.offset < before.offset + sizes[order[k - 1]]) {
      fail(ErrorCode::kFormat, "{}: {}: offset: expected at least {}, where {} ends, found {}", path,
           shown(Json(tensor.name)), before.offset + sizes[order[k - 1]], shown(Json(before.name)),
           tensor.offset);
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].offset += data_start;
    if (sizes[i] > 0) tensors[i].bytes = {file.data() + tensors[i].offset, sizes[i]};
  }
}

}  // namespace

std::int64_t GgufTensor::rows() const {
  std::int64_t n = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
  return n;
}

std::int64_t GgufTensor::elements() const {
  return rows() * cols();
}

std::string GgufTensor::described() const {
  return fmt::format("{} {}", name_of(type), shape_text(shape));
}

Gguf Gguf::open(const std::filesystem::path& path) {
  Gguf result;
  result.file_ = std::make_shared<const MappedFile>(path);
  HeaderReader in(*result.file_);
  result.version_ = read_version(in);
  const std::uint64_t tensors = count_of(in, "tensor count", kMaxTensors);
  const std::uint64_t keys = count_of(in, "metadata count", kMaxKeys);

  EntryReader entries(in);
  for (std::uint64_t i = 0; i < keys; ++i) {
    Place place{"metadata entry", i, {}};
    std::string key = in.name(kMaxKeyBytes, place, "key");
    place.name = key;
    Value value = entries.value(place);
    if (result.values_.contains(key)) {
      fail(ErrorCode::kFormat, "{}: expected each key once, found it again", in.where(place, "key"));
    }
    result.values_.emplace(std::move(key), std::move(value));
  }
  if (const Value* alignment = result.find(kAlignmentKey)) {
    result.alignment_ = alignment_of(*alignment, result.path());
  }

  std::vector<std::uint64_t> sizes;
  for (std::uint64_t i = 0; i < tensors; ++i) {
    std::uint64_t size = 0;
    GgufTensor tensor = entries.tensor(i, &size);
    if (!result.index_.emplace(tensor.name, i).second) {
      fail(ErrorCode::kFormat, "{}: expected each name once, found it again",
           in.where({"tensor", i, tensor.name}, "name"));
    }
    sizes.push_back(size);
    result.tensors_.push_back(std::move(tensor));
  }
  const std::uint64_t mask = result.alignment_ - 1;
  result.data_start_ = (in.position() + mask) & ~mask;
  place_tensors(*result.file_, result.data_start_, result.alignment_, sizes, result.tensors_);
  return result;
}

const GgufTensor* Gguf::find_tensor(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& Gguf::tensor(std::string_view name) const {
  if (const GgufTensor* found = find_tensor(name)) return *found;
  std::vector<std::string> names;
  for (const GgufTensor& known : tensors_) names.push_back(known.name);
  fail(ErrorCode::kNotFound, "{}: no tensor {}{}", path(), name, did_you_mean(name, names));
}

const GgufTensor& Gguf::expect(std::string_view name, std::span<const std::int64_t> shape) const {
  const GgufTensor& found = tensor(name);
  bool same = found.shape.size() == shape.size();
  for (std::size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || found.shape[i] == shape[i];
  if (!same) {
    fail(ErrorCode::kMismatch, "{}: {}: expected shape {}, found {}", path(), name, shape_text(shape),
         shape_text(found.shape));
  }
  return found;
}

void Gguf::read_rows(const GgufTensor& tensor, std::int64_t first, std::span<float> to) const {
  if (!can_dequantise(tensor.type)) {
    fail(ErrorCode::kFormat, "{}: {}: cannot compute with type {}", path(), tensor.name,
         name_of(tensor.type));
  }
  if (to.empty()) return;
  const std::int64_t cols = tensor.cols(), values = static_cast<std::int64_t>(to.size());
  require(cols > 0 && values % cols == 0, "whole rows");
  require(first >= 0 && first <= tensor.rows() && values / cols <= tensor.rows() - first,
          "rows of the tensor");
  const std::uint64_t row = row_bytes(tensor.type, cols);
  std::vector<std::byte> bytes(row_bytes(tensor.type, values));
  file_->read_at(tensor.offset + static_cast<std::uint64_t>(first) * row, bytes.data(), bytes.size());
  dequantise(tensor.type, bytes, to);
}

}  // namespace stem
