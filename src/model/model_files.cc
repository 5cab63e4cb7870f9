#include "model/model_files.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "io/file.h"
#include "io/json.h"
#include "io/read_queue.h"
#include "io/safetensors.h"
#include "model/served_weights.h"

namespace stem {
namespace {

constexpr std::uint64_t kMaxConfigBytes = 1 << 20;

// Record by record, from wherever the table lies.
void write_table_file(const std::filesystem::path& path, const Table& from, DType dtype,
                      std::optional<WeightFormat> format) {
  const TableShape shape = from.shape();
  constexpr const char* kName = "stem.table";
  const std::int64_t row_bytes =
      format ? stored_row_bytes(*format, shape.width) : shape.width * size_of(dtype);
  TensorSpec spec{kName, dtype, {shape.vocab, shape.layers, shape.width}};
  std::map<std::string, std::string> metadata;
  if (format) {
    spec = {kName, DType::u8, {shape.vocab, shape.layers * row_bytes}};
    metadata.emplace(kName, name_of(*format));
  }
  require(format || dtype == DType::f32 || dtype == DType::bf16, "stored dtype");
  SafetensorsWriter writer(path, {spec}, metadata, kDirectBlockBytes);
  constexpr std::int64_t kPiece = 256;  // records
  std::vector<std::byte> piece;
  std::vector<float> values;
  for (std::int64_t first = 0; first < shape.vocab; first += kPiece) {
    const std::int64_t records = std::min(kPiece, shape.vocab - first), rows = records * shape.layers;
    piece.resize(static_cast<std::size_t>(rows * row_bytes));
    values.resize(static_cast<std::size_t>(rows * shape.width));
    const auto row_values = [&](std::int64_t r) {
      return std::span(values).subspan(static_cast<std::size_t>(r * shape.width),
                                       static_cast<std::size_t>(shape.width));
    };
    for (std::int64_t r = 0; r < rows; ++r)
      from.read_row(first + r / shape.layers, r % shape.layers, row_values(r));
#pragma omp parallel for schedule(dynamic, 16)
    for (std::int64_t r = 0; r < rows; ++r) {
      std::byte* const to = piece.data() + r * row_bytes;
      if (format)
        store_row(*format, row_values(r), to);
      else if (dtype == DType::bf16)
        store_row(WeightFormat::bf16, row_values(r), to);
      else
        std::memcpy(to, row_values(r).data(), static_cast<std::size_t>(row_bytes));
    }
    writer.write(kName, piece.data(), piece.size());
  }
  writer.close();
}

void copy_rows(const Table& from, Out records) {
  const TableShape shape = from.shape();
  std::vector<float> row(static_cast<std::size_t>(shape.width));
  for (std::int64_t t = 0; t < shape.vocab; ++t) {
    for (std::int64_t s = 0; s < shape.layers; ++s) {
      from.read_row(t, s, row);
      if (records.dtype == DType::f64)
        std::copy(row.begin(), row.end(), records.row<double>(t) + s * shape.width);
      else
        std::copy(row.begin(), row.end(), records.row<float>(t) + s * shape.width);
    }
  }
}

// Shapes are checked before the memory for them is taken: a config that asks for terabytes fails on the
// file's own shapes.
void check_shapes(const WeightsFile& weights, const ModelConfig& c) {
  weights.matrix(c.tied ? kEmbeddingName : "lm_head.weight", c.vocab, c.width,
                 "vocab_size, hidden_size of config.json");
  const auto expect_down = [&](const std::string& name, std::int64_t width, const char* key) {
    weights.matrix(name, c.width, width, fmt::format("hidden_size, {} of config.json", key));
  };
  const ExpertShape experts = c.expert_shape();
  for (std::int64_t l = 0; l < c.layers; ++l) {
    const std::string mlp = "model.layers." + std::to_string(l) + ".mlp.";
    if (!c.is_mixture(l)) expect_down(mlp + "down_proj.weight", c.ffn, "intermediate_size");
    for (std::int64_t e = 0; c.is_mixture(l) && e < experts.experts; ++e) {
      expect_down(mlp + "experts." + std::to_string(e) + ".down_proj.weight", experts.width,
                  "moe_intermediate_size");
    }
  }
}

void check_names(const WeightsFile& weights, const ModelConfig& c) {
  std::set<std::string> known;
  if (!c.tied) known.insert(kEmbeddingName);
  for_each_tensor(c, DenseTensors::layout(c),
                  [&](const std::string& name, Out, TensorKind) { known.insert(name); });
  for (const std::string& name : weights.file().names()) {
    if (!known.contains(name)) {
      fail(ErrorCode::kMismatch,
           "{}: {}: a tensor that config.json (ffn_variant {}, stem_layers [{}]) has no place for",
           weights.file().path(), name, name_of(c.variant), fmt::join(c.stem_layers, ", "));
    }
  }
}

Model read_weights(const WeightsFile& weights, const ModelConfig& c, Precision precision,
                   const ReadOptions& options) {
  const bool serving = options.serving != nullptr && !c.has_experts() && weights.narrow(c);
  Model model = serving ? Model::for_serving(c) : Model(c, precision, options.table_in_memory);
  if (serving)
    model.served = served_weights(*options.serving, c, weights);
  else if (!c.tied)
    weights.read(kEmbeddingName, false, model.embedding.view);
  for_each_tensor(c, model.weights, [&](const std::string& name, Out view, TensorKind kind) {
    if (is_vector(kind) || !serving) weights.read(name, is_vector(kind), view);
  });
  return model;
}

}  // namespace

void write_model_files(const std::filesystem::path& dir, const Model& model, const WriteOptions& options) {
  const ModelConfig& c = model.config;
  write_file_atomic(dir / kConfigFile,
                    dump_json(config_to_json(c, options.dtype == DType::f32 ? "float32" : "bfloat16")));

  require(!model.served, "a served model has no weights to write");
  write_weights_file(dir / kWeightsFile, c, model.weights, c.tied ? In{} : In(model.embedding.view),
                     options.dtype, options.choose);

  if (!model.table.present()) return;
  write_table_file(dir / kTableFile, model.table, options.table_dtype.value_or(options.dtype),
                   options.table_rows);
}

Model read_model_files(const std::filesystem::path& dir, const ReadOptions& options) {
  const std::string config_path = (dir / kConfigFile).string();
  const Json json = parse_json(read_file(config_path, kMaxConfigBytes), config_path);
  const ModelConfig c = config_from_json(json, config_path);
  const bool narrow = get_string_or(json, "torch_dtype", config_path, "float32") == "bfloat16";
  const WeightsFile weights(dir / kWeightsFile);
  check_shapes(weights, c);
  Model model = read_weights(
      weights, c, options.precision.value_or(Precision{DType::f32, narrow ? DType::bf16 : DType::f32}),
      options);
  check_names(weights, c);
  if (c.stem_layer_count() == 0) return model;
  if (c.variant == FfnVariant::stem_additive && !std::filesystem::exists(dir / kTableFile))
    return model;  // zero rows
  const Safetensors file = Safetensors::open(dir / kTableFile);
  Table table = Table::open(file, c.table_shape(), options.table_in_memory ? TableOptions{} : options.table);
  if (!options.table_in_memory) {
    model.table = std::move(table);
    return model;
  }
  if (!model.table.present()) model.table = Table::in_memory(c.table_shape(), DType::f32);
  copy_rows(table, model.table.writable_records());
  return model;
}

RecordAddress record_address(const Safetensors& table_file, std::int64_t token) {
  const TensorInfo& info = table_file.info("stem.table");
  require(info.shape.size() == 3 && token >= 0 && token < info.shape[0], "record address");
  const std::uint64_t bytes = info.bytes / static_cast<std::uint64_t>(info.shape[0]);
  return {info.offset + static_cast<std::uint64_t>(token) * bytes, bytes};
}

}  // namespace stem
