#include "model/model_files.h"

#include <set>
#include <vector>

#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace stem {
namespace {

constexpr std::uint64_t kTableAlignment = 4096;  // mappable, and readable with O_DIRECT
constexpr std::uint64_t kMaxConfigBytes = 1 << 20;
const char* const kEmbedding = "model.embed_tokens.weight";

std::vector<std::int64_t> stored_shape(const In& view, TensorKind kind) {
  if (is_vector(kind)) return {view.cols};
  return {view.rows, view.cols};
}

// Rows in pieces, converted to the stored dtype.
void write_converted(SafetensorsWriter& writer, const std::string& name, const In& view, DType dtype) {
  if (view.dtype == dtype) return writer.write(name, view);
  require(view.dtype == DType::f32 && dtype == DType::bf16, "stored dtype");
  std::vector<bf16> row(static_cast<std::size_t>(view.cols));
  for (std::int64_t r = 0; r < view.rows; ++r) {
    const float* from = view.row<float>(r);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = bf16(from[i]);
    writer.write(name, row.data(), row.size() * sizeof(bf16));
  }
}

void read_into(const Safetensors& file, const std::string& name, const std::vector<std::int64_t>& shape,
               Out into) {
  const TensorInfo& info = file.info(name);
  if (info.shape != shape || (info.dtype != DType::f32 && info.dtype != DType::bf16)) {
    fail(ErrorCode::kMismatch, "{}: {}: expected F32 or BF16 [{}] (from config.json), found {}", file.path(),
         name, fmt::join(shape, ", "), info.described());
  }
  const auto copy = [&]<class To>(To* to) {
    const std::int64_t n = into.size();
    const void* data = file.data(info);
    for (std::int64_t i = 0; i < n; ++i) {
      to[i] = info.dtype == DType::f32
                  ? static_cast<To>(static_cast<const float*>(data)[i])
                  : static_cast<To>(static_cast<float>(static_cast<const bf16*>(data)[i]));
    }
  };
  if (into.dtype == DType::f64)
    copy(into.row<double>(0));
  else
    copy(into.row<float>(0));
}

}  // namespace

void write_model_files(const std::filesystem::path& dir, const Model& model, DType dtype) {
  const ModelConfig& c = model.config;
  write_file_atomic(dir / kConfigFile,
                    dump_json(config_to_json(c, dtype == DType::f32 ? "float32" : "bfloat16")));

  std::vector<TensorSpec> specs;
  if (!c.tied) specs.push_back({kEmbedding, dtype, {c.vocab, c.width}});
  for_each_tensor(c, model.weights, [&](const std::string& name, const In& view, TensorKind kind) {
    specs.push_back({name, dtype, stored_shape(view, kind)});
  });
  SafetensorsWriter weights(dir / kWeightsFile, specs, {{"format", "pt"}});
  if (!c.tied) write_converted(weights, kEmbedding, model.embedding.view, dtype);
  for_each_tensor(c, model.weights, [&](const std::string& name, const In& view, TensorKind) {
    write_converted(weights, name, view, dtype);
  });
  weights.close();

  if (!model.table.present()) return;
  const TableShape shape = model.table.shape();
  SafetensorsWriter table(dir / kTableFile, {{"stem.table", dtype, {shape.vocab, shape.layers, shape.width}}},
                          {}, kTableAlignment);
  write_converted(table, "stem.table", model.table.records(), dtype);
  table.close();
}

Model read_model_files(const std::filesystem::path& dir, const ReadOptions& options) {
  const std::string config_path = (dir / kConfigFile).string();
  const Json json = parse_json(read_file(config_path, kMaxConfigBytes), config_path);
  const ModelConfig c = config_from_json(json, config_path);
  const bool narrow = get_string_or(json, "torch_dtype", config_path, "float32") == "bfloat16";
  const Safetensors weights = Safetensors::open(dir / kWeightsFile);

  // Shapes are checked before the memory for them is taken: a config that asks for terabytes fails on the
  // file's own shapes.
  const TensorInfo& head = weights.info(c.tied ? kEmbedding : "lm_head.weight");
  if (head.shape != std::vector<std::int64_t>{c.vocab, c.width}) {
    fail(ErrorCode::kMismatch, "{}: {}: expected [{}, {}] (vocab_size, hidden_size of config.json), found {}",
         weights.path(), head.name, c.vocab, c.width, head.described());
  }
  const auto expect_down = [&](const std::string& name, std::int64_t width, const char* key) {
    const TensorInfo& down = weights.info(name);
    if (down.shape != std::vector<std::int64_t>{c.width, width}) {
      fail(ErrorCode::kMismatch, "{}: {}: expected [{}, {}] (hidden_size, {} of config.json), found {}",
           weights.path(), down.name, c.width, width, key, down.described());
    }
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
  Model model(c, options.precision.value_or(Precision{DType::f32, narrow ? DType::bf16 : DType::f32}),
              options.table_in_memory);
  std::set<std::string> known;
  const auto read = [&](const std::string& name, Out view, const std::vector<std::int64_t>& shape) {
    known.insert(name);
    read_into(weights, name, shape, view);
  };
  if (!c.tied) read(kEmbedding, model.embedding.view, {c.vocab, c.width});
  for_each_tensor(c, model.weights, [&](const std::string& name, Out view, TensorKind kind) {
    read(name, view, stored_shape(view, kind));
  });
  for (const std::string& name : weights.names()) {
    if (!known.contains(name)) {
      fail(ErrorCode::kMismatch,
           "{}: {}: a tensor that config.json (ffn_variant {}, stem_layers [{}]) has no place for",
           weights.path(), name, name_of(c.variant), fmt::join(c.stem_layers, ", "));
    }
  }
  if (c.stem_layer_count() == 0) return model;
  if (c.variant == FfnVariant::stem_additive && !std::filesystem::exists(dir / kTableFile))
    return model;  // zero rows
  const Safetensors file = Safetensors::open(dir / kTableFile);
  const Table mapped = Table::mapped(file, c.table_shape());
  if (!options.table_in_memory) {
    model.table = mapped;
    return model;
  }
  read_into(file, "stem.table", {c.vocab, c.stem_layer_count(), c.ffn}, model.table.writable_records());
  return model;
}

RecordAddress record_address(const Safetensors& table_file, std::int64_t token) {
  const TensorInfo& info = table_file.info("stem.table");
  require(info.shape.size() == 3 && token >= 0 && token < info.shape[0], "record address");
  const std::uint64_t bytes = info.bytes / static_cast<std::uint64_t>(info.shape[0]);
  return {info.offset + static_cast<std::uint64_t>(token) * bytes, bytes};
}

}  // namespace stem
