// Hugging Face directories: Llama's, Qwen2's and Qwen3's config.json, and what stem export wrote; their
// tensor names are this engine's own.
#include <algorithm>
#include <map>
#include <set>

#include "convert/import.h"
#include "core/error.h"
#include "io/file.h"
#include "io/gguf_blocks.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMost = 1 << 24;
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// The scaling and the base have moved: `rope_parameters` of newer configurations holds both.
void read_rope(const Json& json, const std::string& source, ModelConfig& c) {
  const Json* const parameters = find_field(json, "rope_parameters", source);
  const std::string inner = source + ": rope_parameters";
  c.rope_theta = parameters != nullptr && parameters->contains("rope_theta")
                     ? get_number(*parameters, "rope_theta", inner)
                     : get_number_or(json, "rope_theta", source, 1, 1e12, 10000.0);
  const Json* const scaling = find_field(json, "rope_scaling", source);
  if (scaling != nullptr)
    c.rope_scaling = rope_scaling_from_json(*scaling, source);
  else if (parameters != nullptr)
    c.rope_scaling = rope_scaling_from_json(*parameters, source);
}

ModelConfig config_of(const Json& json, const std::string& source, std::string& type) {
  type = get_string(json, "model_type", source);
  if (type == "stem") {  // what stem export wrote
    ModelConfig c = config_from_json(json, source);
    if (c.has_experts())
      fail(ErrorCode::kMismatch, "{}: ffn_variant: expected no mixture of experts, found {}", source,
           name_of(c.variant));
    return c;
  }
  if (type != "llama" && type != "qwen2" && type != "qwen3")
    fail(ErrorCode::kMismatch, "{}: model_type: expected llama, qwen2, qwen3 or stem, found \"{}\"", source,
         type);
  const auto refuse = [&](const char* key) {
    if (get_bool_or(json, key, source, false))
      fail(ErrorCode::kMismatch, "{}: {}: expected false for {}, found true", source, key, type);
  };
  refuse("mlp_bias");
  refuse("use_sliding_window");
  if (type != "qwen2") refuse("attention_bias");
  if (const std::string act = get_string_or(json, "hidden_act", source, "silu"); act != "silu")
    fail(ErrorCode::kMismatch, "{}: hidden_act: expected silu, found \"{}\"", source, act);
  const auto extent = [&](const char* key) { return get_int(json, key, source, 1, kMost); };
  ModelConfig c;
  c.variant = FfnVariant::dense;
  c.vocab = extent("vocab_size");
  c.width = extent("hidden_size");
  c.layers = get_int(json, "num_hidden_layers", source, 1, 4096);
  c.heads = extent("num_attention_heads");
  c.kv_heads = get_int_or(json, "num_key_value_heads", source, 1, kMost, c.heads);
  if (find_field(json, "head_dim", source) == nullptr && c.width % c.heads != 0)
    fail(ErrorCode::kMismatch, "{}: num_attention_heads: expected a divisor of hidden_size = {}, found {}",
         source, c.width, c.heads);
  c.head_width = get_int_or(json, "head_dim", source, 1, kMost, c.width / c.heads);
  c.ffn = extent("intermediate_size");
  c.max_positions = extent("max_position_embeddings");
  c.norm_eps = get_number(json, "rms_norm_eps", source);
  c.tied = get_bool_or(json, "tie_word_embeddings", source, false);
  c.qkv_bias = type == "qwen2";
  c.qk_norm = type == "qwen3";
  read_rope(json, source, c);
  c.validate(source);
  return c;
}

// The weights of a directory, in one file or several.
class Shards {
 public:
  explicit Shards(const fs::path& directory) {
    if (fs::exists(directory / kWeights) || !fs::exists(directory / kIndex)) {
      open(directory / kWeights);
      return;
    }
    const std::string name = (directory / kIndex).string();
    const Json index = parse_json(read_file(directory / kIndex), name);
    std::set<std::string> files;
    for (const auto& [tensor, file] : get_object(index, "weight_map", name).items()) {
      if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos)
        fail(ErrorCode::kFormat, "{}: weight_map: {}: expected the name of a file beside it, found {}", name,
             tensor, shown(file));
      files.insert(file.get<std::string>());
    }
    for (const std::string& file : files) open(directory / file);
    for (const auto& [tensor, file] : index["weight_map"].items()) info(tensor);
    place_ = name;
  }

  const TensorInfo& info(const std::string& tensor) const { return at(tensor).info(tensor); }

  void read(const std::string& tensor, Out to) const {
    const Safetensors& file = at(tensor);
    const TensorInfo& found = file.info(tensor);
    std::vector<std::byte> bytes(found.bytes);
    file.file().read_at(found.offset, bytes.data(), bytes.size());
    const GgmlType type = found.type == "F32"   ? GgmlType::f32
                          : found.type == "F16" ? GgmlType::f16
                                                : GgmlType::bf16;
    dequantise(type, bytes, {to.row<float>(0), static_cast<std::size_t>(to.size())});
  }

  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Safetensors& file : files_) {
      for (const TensorInfo& tensor : file.tensors()) visit(file, tensor);
    }
  }

 private:
  void open(const fs::path& path) {
    const Safetensors file = Safetensors::open(path);
    if (place_.empty()) place_ = file.path();
    for (const std::string& name : file.names()) {
      if (!where_.emplace(name, files_.size()).second)
        fail(ErrorCode::kMismatch, "{}: {}: a second time, after {}", file.path(), name,
             files_[where_.at(name)].path());
    }
    files_.push_back(file);
  }
  const Safetensors& at(const std::string& tensor) const {
    const auto found = where_.find(tensor);
    if (found == where_.end())
      fail(ErrorCode::kNotFound, "{}: {}: expected this tensor, found none", place_, tensor);
    return files_[found->second];
  }

  std::vector<Safetensors> files_;
  std::map<std::string, std::size_t, std::less<>> where_;
  std::string place_;
};

std::string table_name(std::int64_t layer) {
  return fmt::format("model.layers.{}.mlp.table.weight", layer);
}

// A table a layer becomes one of all layers.
void read_table(const Shards& shards, Model& model) {
  const ModelConfig& c = model.config;
  model.table = Table::in_memory(c.table_shape(), DType::f32);
  const Tensor rows(DType::f32, c.vocab, c.ffn);
  for (const std::int64_t l : c.stem_layers) {
    shards.read(table_name(l), rows);
    const Out to = model.table.writable_records().slice_cols(c.stem_index(l) * c.ffn, c.ffn);
    for (std::int64_t t = 0; t < c.vocab; ++t) std::copy_n(rows.view.row<float>(t), c.ffn, to.row<float>(t));
  }
}

}  // namespace

ImportedModel import_hugging_face(const fs::path& directory) {
  const std::string source = (directory / "config.json").string();
  std::string type;
  const ModelConfig c =
      config_of(parse_json(read_file(directory / "config.json", 1 << 20), source), source, type);
  const Shards shards(directory);

  // Every shape is checked before memory is taken.
  std::set<std::string> known;
  std::map<std::string, std::int64_t> types;
  const auto check = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    const TensorInfo& found = shards.info(name);
    if (found.shape != shape || (found.type != "F32" && found.type != "F16" && found.type != "BF16"))
      fail(ErrorCode::kMismatch, "{}: {}: expected F32, F16 or BF16 [{}] (from config.json), found {}",
           directory.string(), name, fmt::join(shape, ", "), found.described());
    known.insert(name);
    ++types[found.type];
  };
  for_each_tensor(c, DenseTensors::layout(c), [&](const std::string& name, const In& view, TensorKind kind) {
    check(name, is_vector(kind) ? std::vector{view.cols} : std::vector{view.rows, view.cols});
  });
  if (!c.tied) check("model.embed_tokens.weight", {c.vocab, c.width});
  const std::map<std::string, std::int64_t> dense_types = types;
  std::optional<DType> rows_stored;
  for (const std::int64_t l : c.stem_layers) {
    check(table_name(l), {c.vocab, c.ffn});
    rows_stored = shards.info(table_name(l)).type == "BF16" ? rows_stored.value_or(DType::bf16) : DType::f32;
  }
  shards.for_each([&](const Safetensors& file, const TensorInfo& tensor) {
    const bool repeated = c.tied && tensor.name == "lm_head.weight";                // the embedding again
    const bool computed = tensor.name.ends_with(".self_attn.rotary_emb.inv_freq");  // old files keep it
    if (!known.contains(tensor.name) && !repeated && !computed)
      fail(ErrorCode::kMismatch, "{}: {}: a tensor that model_type {} has no place for", file.path(),
           tensor.name, type);
  });

  std::string list;
  for (const auto& [dtype, count] : types) list += (list.empty() ? "" : " and ") + dtype;
  ImportedModel imported{
      Model(c, {}, false), Tokenizer::load(directory), fmt::format("Hugging Face, {}, {}", type, list),
      dense_types.size() == 1 && dense_types.contains("BF16") ? DType::bf16 : DType::f32, rows_stored};
  for_each_tensor(c, imported.model.weights,
                  [&](const std::string& name, Out view, TensorKind) { shards.read(name, view); });
  if (!c.tied) shards.read("model.embed_tokens.weight", imported.model.embedding);
  if (c.has_table()) read_table(shards, imported.model);
  return imported;
}

}  // namespace stem
