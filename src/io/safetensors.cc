#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "core/error.h"
#include "core/names.h"
#include "io/json.h"

namespace stem {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the reference implementation's limit
constexpr std::size_t kMaxValues = 2'000'000;  // JSON values: about 250,000 tensors, parsed in under a second
constexpr std::size_t kMaxRank = 64;
constexpr std::string_view kMetadata = "__metadata__";

struct TypeName {
  std::string_view name;
  std::uint64_t bits;
  std::optional<DType> dtype;
};
constexpr std::array<TypeName, 20> kTypes = {{
    {"F64", 64, DType::f64},      {"F32", 32, DType::f32},      {"F16", 16, DType::f16},
    {"BF16", 16, DType::bf16},    {"I64", 64, DType::i64},      {"I32", 32, DType::i32},
    {"U16", 16, DType::u16},      {"U8", 8, DType::u8},         {"I8", 8, DType::i8},
    {"BOOL", 8, std::nullopt},    {"I16", 16, std::nullopt},    {"U32", 32, std::nullopt},
    {"U64", 64, std::nullopt},    {"C64", 64, std::nullopt},    {"F8_E4M3", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt}, {"F8_E8M0", 8, std::nullopt}, {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt}, {"F4", 4, std::nullopt},
}};

const TypeName* find_type(std::string_view name) {
  for (const TypeName& type : kTypes) {
    if (type.name == name) return &type;
  }
  return nullptr;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool multiply(std::uint64_t a, std::uint64_t b, std::uint64_t* product) {
  return !__builtin_mul_overflow(a, b, product);
}

struct Range {
  std::uint64_t begin, end;  // relative to the first data byte
};

// Reads one entry of the header. A header may hold 10^5 of them, so the text that names file and tensor in
// errors is built only when there is one.
class TensorParser {
 public:
  explicit TensorParser(const std::string& file) : file_(file) {}

  TensorInfo parse(const std::string& name, const Json& json, Range* range) {
    name_ = &name;
    if (!json.is_object()) wrong("a tensor's entry", "an object", json);
    TensorInfo info;
    info.name = name;
    const TypeName& type = type_of(member(json, "dtype"));
    info.type = type.name;
    info.dtype = type.dtype;

    const Json& shape = member(json, "shape");
    if (!shape.is_array() || shape.size() > kMaxRank) wrong("shape", "an array of at most 64 extents", shape);
    std::uint64_t elements = 1, bits = 0;
    bool fits = true;
    info.shape.reserve(shape.size());
    for (const Json& extent : shape) {
      const std::uint64_t n = count("shape", extent);
      info.shape.push_back(static_cast<std::int64_t>(n));
      fits = fits && multiply(elements, n, &elements);
    }
    if (!fits || !multiply(elements, type.bits, &bits)) {
      fail(ErrorCode::kFormat, "{}: shape: the size of {} overflows", where(), info.described());
    }
    if (bits % 8 != 0)
      fail(ErrorCode::kFormat, "{}: {} is no whole number of bytes", where(), info.described());

    const Json& offsets = member(json, "data_offsets");
    if (!offsets.is_array() || offsets.size() != 2) wrong("data_offsets", "an array of 2 offsets", offsets);
    range->begin = count("data_offsets", offsets[0]);
    range->end = count("data_offsets", offsets[1]);
    if (range->end < range->begin || range->end - range->begin != bits / 8) {
      fail(ErrorCode::kFormat, "{}: data_offsets: {} takes {} bytes, found [{}, {}]", where(),
           info.described(), bits / 8, range->begin, range->end);
    }
    info.bytes = bits / 8;
    return info;
  }

 private:
  std::string where() const { return file_ + ": " + shown(Json(*name_)); }

  [[noreturn]] void wrong(std::string_view field, std::string_view expected, const Json& found) const {
    fail(ErrorCode::kFormat, "{}: {}: expected {}, found {}", where(), field, expected, shown(found));
  }

  const Json& member(const Json& json, const char* key) const {
    const auto found = json.find(key);
    if (found == json.end()) fail(ErrorCode::kFormat, "{}: {}: missing", where(), key);
    return *found;
  }

  const TypeName& type_of(const Json& json) const {
    if (json.is_string()) {
      if (const TypeName* type = find_type(json.get_ref<const std::string&>())) return *type;
    }
    wrong("dtype", "a type of the format", json);
  }

  // An integer >= 0 that an int64 holds.
  std::uint64_t count(std::string_view field, const Json& json) const {
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!json.is_number_unsigned() || json.get<std::uint64_t>() > kMax)
      wrong(field, "an integer in [0, 2^63)", json);
    return json.get<std::uint64_t>();
  }

  const std::string& file_;
  const std::string* name_ = nullptr;
};

}  // namespace

std::int64_t TensorInfo::elements() const {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

std::string TensorInfo::described() const {
  return type + " " + shape_text(shape);
}

std::string_view safetensors_name(DType dtype) {
  for (const TypeName& type : kTypes) {
    if (type.dtype == dtype) return type.name;
  }
  require(false, "a dtype without a name");
  return {};
}

Safetensors Safetensors::open(const std::filesystem::path& path) {
  Safetensors result;
  result.file_ = std::make_shared<const MappedFile>(path);
  const MappedFile& map = *result.file_;
  const std::string file = path.string();

  std::array<unsigned char, 8> length_bytes{};
  if (map.size() < 8) {
    fail(ErrorCode::kFormat, "{}: expected a safetensors file, found {} bytes", file, map.size());
  }
  map.read_at(0, length_bytes.data(), 8);
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) length = length << 8 | length_bytes[i];
  if (length > kMaxHeader) {
    fail(ErrorCode::kFormat, "{}: header length: expected at most {}, found {}", file, kMaxHeader, length);
  }
  if (length > map.size() - 8) {
    fail(ErrorCode::kFormat, "{}: header length: {} bytes in a file of {}", file, length, map.size());
  }
  std::string text(length, '\0');
  map.read_at(8, text.data(), length);
  // The format wants '{' first; the parser alone would also take leading spaces or a byte order mark.
  if (text.empty() || text[0] != '{') fail(ErrorCode::kFormat, "{}: header: expected '{{' at byte 8", file);
  const Json header = parse_json(text, file + ": header",
                                 {.max_bytes = kMaxHeader, .max_depth = 8, .max_elements = kMaxValues});
  text = {};

  TensorParser parser(file);
  std::vector<std::pair<Range, TensorInfo>> found;
  found.reserve(header.size());
  for (const auto& item : header.items()) {
    if (item.key() == kMetadata) {
      if (item.value().is_null()) continue;
      if (!item.value().is_object()) {
        fail(ErrorCode::kFormat, "{}: {}: expected an object, found {}", file, kMetadata,
             shown(item.value()));
      }
      for (const auto& entry : item.value().items()) {
        if (!entry.value().is_string()) {
          fail(ErrorCode::kFormat, "{}: {}: {}: expected a string, found {}", file, kMetadata,
               shown(Json(entry.key())), shown(entry.value()));
        }
        result.metadata_.emplace(entry.key(), entry.value().get_ref<const std::string&>());
      }
      continue;
    }
    Range range{};
    TensorInfo info = parser.parse(item.key(), item.value(), &range);
    found.emplace_back(range, std::move(info));
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return a.first.begin != b.first.begin ? a.first.begin < b.first.begin : a.first.end < b.first.end;
  });

  result.data_start_ = 8 + length;
  std::uint64_t next = 0;
  for (auto& [range, info] : found) {
    if (range.begin != next) {
      fail(ErrorCode::kFormat, "{}: {}: data_offsets: expected to begin at {}, found {}: {}", file,
           shown(Json(info.name)), next, range.begin, range.begin > next ? "a hole" : "an overlap");
    }
    next = range.end;
    info.offset = result.data_start_ + range.begin;
    result.index_.emplace(info.name, result.tensors_.size());
    result.tensors_.push_back(std::move(info));
  }
  if (next != map.size() - result.data_start_) {
    fail(ErrorCode::kFormat, "{}: expected {} bytes of data after the header, found {}", file, next,
         map.size() - result.data_start_);
  }
  return result;
}

std::vector<std::string> Safetensors::names() const {
  std::vector<std::string> result;
  for (const TensorInfo& info : tensors_) result.push_back(info.name);
  return result;
}

bool Safetensors::has(std::string_view name) const {
  return index_.contains(std::string(name));
}

const TensorInfo& Safetensors::info(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  if (found == index_.end()) {
    fail(ErrorCode::kNotFound, "{}: no tensor {}{}", path(), name, did_you_mean(name, names()));
  }
  return tensors_[found->second];
}

const TensorInfo& Safetensors::expect(std::string_view name, DType dtype,
                                      std::span<const std::int64_t> shape) const {
  const TensorInfo& tensor = info(name);
  bool same = tensor.dtype == dtype && tensor.shape.size() == shape.size();
  for (std::size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || tensor.shape[i] == shape[i];
  if (!same) {
    fail(ErrorCode::kMismatch, "{}: {}: expected {} {}, found {}", path(), name, safetensors_name(dtype),
         shape_text(shape), tensor.described());
  }
  return tensor;
}

const void* Safetensors::data(const TensorInfo& info) const {
  return file_->data() + info.offset;
}

const void* Safetensors::data(std::string_view name) const {
  return data(info(name));
}

In Safetensors::matrix(std::string_view name, std::int64_t rows, std::int64_t cols) const {
  const TensorInfo& tensor = info(name);
  const auto& shape = tensor.shape;
  const bool same = (shape.size() == 2 && shape[0] == rows && shape[1] == cols) ||
                    (shape.size() == 1 && rows == 1 && shape[0] == cols);
  if (!same) {
    fail(ErrorCode::kMismatch, "{}: {}: expected shape [{}, {}], found {}", path(), name, rows, cols,
         shape_text(shape));
  }
  if (!tensor.dtype)
    fail(ErrorCode::kFormat, "{}: {}: cannot compute with type {}", path(), name, tensor.type);
  if (tensor.offset % static_cast<std::uint64_t>(size_of(*tensor.dtype)) != 0) {
    fail(ErrorCode::kFormat, "{}: {}: data at byte {} is not aligned to {}", path(), name, tensor.offset,
         tensor.type);
  }
  return {data(tensor), *tensor.dtype, rows, cols, cols};
}

namespace {

std::uint64_t bytes_of(const TensorSpec& spec) {
  std::uint64_t bytes = static_cast<std::uint64_t>(size_of(spec.dtype));
  for (const std::int64_t extent : spec.shape) {
    require(extent >= 0 && multiply(bytes, static_cast<std::uint64_t>(extent), &bytes),
            "a tensor that fits memory");
  }
  return bytes;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorSpec> specs,
                                     const std::map<std::string, std::string>& metadata,
                                     std::uint64_t data_alignment)
    : file_(path), specs_(std::move(specs)) {
  require(data_alignment >= 8 && data_alignment % 8 == 0, "data alignment is a multiple of 8");
  Json header = Json::object();
  auto& members = static_cast<Json::object_t::Container&>(header.get_ref<Json::object_t&>());
  if (!metadata.empty()) {
    Json entries = Json::object();
    for (const auto& [key, value] : metadata) entries[key] = value;
    members.emplace_back(std::string(kMetadata), std::move(entries));
  }
  std::unordered_set<std::string_view> names;
  std::uint64_t offset = 0;
  for (const TensorSpec& spec : specs_) {
    require(spec.name != kMetadata && names.insert(spec.name).second, "tensor names are distinct");
    require(offset % static_cast<std::uint64_t>(size_of(spec.dtype)) == 0, "wider element types come first");
    const std::uint64_t bytes = bytes_of(spec);
    members.emplace_back(spec.name, Json{{"dtype", safetensors_name(spec.dtype)},
                                         {"shape", spec.shape},
                                         {"data_offsets", {offset, offset + bytes}}});
    offset += bytes;
  }
  std::string text = header.dump();
  const std::uint64_t used = 8 + text.size();
  text.append((data_alignment - used % data_alignment) % data_alignment, ' ');
  std::array<char, 8> length{};
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  file_.write(length.data(), length.size());
  file_.write(text);
  data_start_ = 8 + text.size();
  skip_empty();
}

void SafetensorsWriter::skip_empty() {
  while (current_ < specs_.size() && written_ == bytes_of(specs_[current_])) {
    ++current_;
    written_ = 0;
  }
}

void SafetensorsWriter::write(std::string_view name, const void* data, std::uint64_t bytes) {
  if (bytes == 0) return;
  require(current_ < specs_.size() && specs_[current_].name == name,
          "tensors are written in the order of the specs");
  require(bytes <= bytes_of(specs_[current_]) - written_, "no more bytes than the tensor has");
  file_.write(data, bytes);
  written_ += bytes;
  skip_empty();
}

void SafetensorsWriter::write(std::string_view name, const In& view) {
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(view.cols * size_of(view.dtype));
  const char* from = static_cast<const char*>(view.data);
  if (view.stride == view.cols || view.rows == 1) {
    write(name, from, static_cast<std::uint64_t>(view.rows) * row_bytes);
    return;
  }
  for (std::int64_t i = 0; i < view.rows; ++i)
    write(name, from + i * view.stride * size_of(view.dtype), row_bytes);
}

void SafetensorsWriter::close() {
  require(current_ == specs_.size(), "every tensor is written before close");
  file_.close();
}

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorSpec>& specs,
                       std::span<const In> tensors, const std::map<std::string, std::string>& metadata,
                       std::uint64_t data_alignment) {
  require(specs.size() == tensors.size(), "one view per spec");
  SafetensorsWriter writer(path, specs, metadata, data_alignment);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    require(tensors[i].dtype == specs[i].dtype, "the view has the spec's dtype");
    writer.write(specs[i].name, tensors[i]);
  }
  writer.close();
}

}  // namespace stem
