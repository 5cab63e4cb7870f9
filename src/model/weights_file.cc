#include "model/weights_file.h"

#include <algorithm>

#include "io/row_format.h"

namespace stem {
namespace {

std::vector<std::int64_t> stored_shape(const In& view, bool vector) {
  if (vector) return {view.cols};
  return {view.rows, view.cols};
}

// Rows [first, first + count) of a matrix, stored.
std::vector<std::byte> stored_rows(const In& view, WeightFormat format, std::int64_t first,
                                   std::int64_t count) {
  const std::int64_t bytes = stored_row_bytes(format, view.cols);
  std::vector<std::byte> stored(static_cast<std::size_t>(count * bytes));
#pragma omp parallel for schedule(dynamic, 8)
  for (std::int64_t r = 0; r < count; ++r) {
    store_row(format, {view.row<float>(first + r), static_cast<std::size_t>(view.cols)},
              stored.data() + r * bytes);
  }
  return stored;
}

// In pieces, so that a matrix of any size needs little memory beside itself.
void write_stored(SafetensorsWriter& writer, const std::string& name, const In& view, WeightFormat format) {
  constexpr std::int64_t kRows = 1024;
  for (std::int64_t first = 0; first < view.rows; first += kRows) {
    const auto piece = stored_rows(view, format, first, std::min(kRows, view.rows - first));
    writer.write(name, piece.data(), piece.size());
  }
}

}  // namespace

StoredTensor WeightsFile::matrix(const std::string& name, std::int64_t rows, std::int64_t cols,
                                 const std::string& source) const {
  StoredTensor tensor{&file_.info(name), std::nullopt, {}};
  const TensorInfo& info = *tensor.info;
  std::vector<std::int64_t> shape{rows, cols};
  tensor.format = row_format(file_, name);
  if (tensor.format) {
    shape[1] = stored_row_bytes(*tensor.format, cols);
    if (info.dtype != DType::u8 || info.shape != shape) {
      fail(ErrorCode::kMismatch, "{}: {}: expected U8 [{}] ({} of [{}, {}], {}), found {}", file_.path(),
           name, fmt::join(shape, ", "), name_of(*tensor.format), rows, cols, source, info.described());
    }
  } else {
    if (info.shape != shape || (info.dtype != DType::f32 && info.dtype != DType::bf16)) {
      fail(ErrorCode::kMismatch, "{}: {}: expected F32 or BF16 [{}] ({}), found {}", file_.path(), name,
           fmt::join(shape, ", "), source, info.described());
    }
    if (info.dtype == DType::bf16) tensor.format = WeightFormat::bf16;
  }
  if (tensor.format)
    tensor.stored = {*tensor.format, rows, cols, static_cast<const std::byte*>(file_.data(info))};
  return tensor;
}

void WeightsFile::read(const std::string& name, bool vector, Out into) const {
  require(into.rows == 1 || into.stride == into.cols, "a tensor is read into contiguous memory");
  const auto put = [&](std::int64_t i, float value) {
    if (into.dtype == DType::f64)
      static_cast<double*>(into.data)[i] = static_cast<double>(value);
    else
      static_cast<float*>(into.data)[i] = value;
  };
  StoredTensor tensor;
  if (vector) {
    tensor.info = &file_.info(name);
    const bool known = tensor.info->dtype == DType::f32 || tensor.info->dtype == DType::bf16;
    if (!known || tensor.info->shape != stored_shape(into, true)) {
      fail(ErrorCode::kMismatch, "{}: {}: expected F32 or BF16 [{}] (from config.json), found {}",
           file_.path(), name, into.cols, tensor.info->described());
    }
    if (tensor.info->dtype == DType::bf16)
      tensor = {tensor.info,
                WeightFormat::bf16,
                {WeightFormat::bf16, 1, into.cols, static_cast<const std::byte*>(file_.data(*tensor.info))}};
  } else {
    tensor = matrix(name, into.rows, into.cols);
  }
  if (!tensor.format) {
    const auto* const from = static_cast<const float*>(file_.data(*tensor.info));
    for (std::int64_t i = 0; i < into.size(); ++i) put(i, from[i]);
    return;
  }
#pragma omp parallel for schedule(static) if (into.rows > 1)
  for (std::int64_t r = 0; r < into.rows; ++r) {
    std::vector<float> row(static_cast<std::size_t>(into.cols));
    read_row(*tensor.format, tensor.stored.row(r), row);
    for (std::int64_t i = 0; i < into.cols; ++i) put(r * into.cols + i, row[static_cast<std::size_t>(i)]);
  }
}

bool WeightsFile::narrow(const ModelConfig& config) const {
  bool all = config.tied || matrix(kEmbeddingName, config.vocab, config.width).format.has_value();
  for_each_tensor(config, DenseTensors::layout(config),
                  [&](const std::string& name, Out view, TensorKind kind) {
                    if (!is_vector(kind)) all = all && matrix(name, view.rows, view.cols).format.has_value();
                  });
  return all;
}

void write_weights_file(const std::filesystem::path& path, const ModelConfig& config,
                        const DenseTensors& weights, In embedding, DType dtype, const FormatChoice& choose) {
  struct Listed {
    std::string name;
    In view;
    TensorKind kind;
    std::optional<WeightFormat> format;
  };
  std::vector<Listed> tensors;
  const auto list = [&](const std::string& name, const In& view, TensorKind kind) {
    std::optional<WeightFormat> format;
    if (choose && !is_vector(kind)) format = choose(name, kind);
    if (!format && dtype == DType::bf16) format = WeightFormat::bf16;
    tensors.push_back({name, view, kind, format});
  };
  if (embedding) list(kEmbeddingName, embedding, TensorKind::embedding);
  for_each_tensor(config, weights, list);
  // Wider types first: a tensor starts on a multiple of its element's size.
  std::vector<TensorSpec> specs;
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  const auto width = [](const Listed& t) { return !t.format ? 4 : t.format == WeightFormat::bf16 ? 2 : 1; };
  std::stable_sort(tensors.begin(), tensors.end(),
                   [&](const Listed& a, const Listed& b) { return width(a) > width(b); });
  for (const Listed& t : tensors) {
    if (width(t) > 1) {
      specs.push_back({t.name, t.format ? DType::bf16 : DType::f32, stored_shape(t.view, is_vector(t.kind))});
    } else {
      specs.push_back({t.name, DType::u8, {t.view.rows, stored_row_bytes(*t.format, t.view.cols)}});
      metadata.emplace(t.name, name_of(*t.format));
    }
  }
  SafetensorsWriter writer(path, specs, metadata);
  for (const Listed& t : tensors) {
    if (t.format && t.view.dtype == DType::f32)
      write_stored(writer, t.name, t.view, *t.format);
    else
      writer.write(t.name, t.view);
  }
  writer.close();
}

}  // namespace stem
