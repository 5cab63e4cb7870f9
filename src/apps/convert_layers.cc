#include "apps/convert_layers.h"

#include "core/error.h"
#include "io/digest.h"
#include "io/file.h"
#include "report/fields.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr const char *kDone = "json", *kRows = "rows.safetensors", *kWeights = "weights.safetensors",
                     *kUpdated = "updated.safetensors";
constexpr const char *kDown = "down", *kO = "o";

}  // namespace

LayerFiles::LayerFiles(fs::path folder, const ModelConfig& dense)
    : folder_(std::move(folder)), dense_(dense) {}

fs::path LayerFiles::file(std::int64_t layer, const char* extension) const {
  return folder_ / fmt::format("layer-{:03}.{}", layer, extension);
}

bool LayerFiles::done(std::int64_t layer) const {
  return fs::exists(file(layer, kDone));
}

fs::path LayerFiles::update_file() const {
  return folder_ / "layer-updates.json";
}

bool LayerFiles::updated() const {
  return fs::exists(update_file());
}

std::unique_ptr<SafetensorsWriter> LayerFiles::write_rows(std::int64_t layer, bool updated) const {
  return std::make_unique<SafetensorsWriter>(
      file(layer, updated ? kUpdated : kRows),
      std::vector<TensorSpec>{{kRowsTensor, DType::bf16, {dense_.vocab, dense_.ffn}}});
}

void LayerFiles::finish(const ConvertedLayer& layer, bool rows) {
  fs::remove(update_file());
  std::vector<TensorSpec> specs{{kDown, DType::f32, {layer.down.view.rows, layer.down.view.cols}}};
  std::vector<In> values{layer.down};
  if (layer.o.view) {
    specs.push_back({kO, DType::f32, {layer.o.view.rows, layer.o.view.cols}});
    values.push_back(layer.o);
  }
  write_safetensors(file(layer.layer, kWeights), specs, values);
  Json done{{"stream_error", layer.stream_error}};
  std::vector<const char*> extensions{kWeights};
  if (rows) extensions.push_back(kRows);
  for (const char* const extension : extensions) {
    const fs::path part = file(layer.layer, extension);
    done["sha256"][extension] = to_hex(sha256_file(part));
    checked_.insert(part);
  }
  write_file_atomic(file(layer.layer, kDone), dump_json(done));
}

void LayerFiles::finish_update(const std::vector<std::int64_t>& layers) {
  Json digests = Json::object();
  for (const std::int64_t layer : layers) {
    const fs::path part = file(layer, kUpdated);
    digests[part.filename().string()] = to_hex(sha256_file(part));
    checked_.insert(part);
  }
  write_file_atomic(update_file(), dump_json({{"sha256", digests}}));
}

// A part of the files, as it was written: `list` holds its digest under `key`.
fs::path LayerFiles::checked(const fs::path& part, const fs::path& list, const std::string& key,
                             const char* remedy) {
  if (!checked_.insert(part).second) return part;
  const std::string name = list.string();
  const Json done = parse_json(read_file(name, 1 << 20), name);
  const std::string expected = get_string(get_object(done, "sha256", name), key, name);
  const std::string found = fs::exists(part) ? to_hex(sha256_file(part)) : "no file";
  if (expected != found)
    fail(ErrorCode::kIntegrity, "{}: sha256: expected {}, found {}: remove {}, and the same command {}",
         part.string(), expected, found, name, remedy);
  return part;
}

fs::path LayerFiles::checked(std::int64_t layer, const char* extension) {
  return checked(file(layer, extension), file(layer, kDone), extension, "converts the layer again");
}

LayerFiles::Rows LayerFiles::opened(const fs::path& part) const {
  Rows rows{Safetensors::open(part), {}};
  rows.rows = rows.file.matrix(kRowsTensor, dense_.vocab, dense_.ffn);
  return rows;
}

LayerFiles::Rows LayerFiles::rows_as_converted(std::int64_t layer) {
  return opened(checked(layer, kRows));
}

LayerFiles::Rows LayerFiles::rows(std::int64_t layer) {
  if (!updated()) return rows_as_converted(layer);
  const fs::path part = file(layer, kUpdated);
  return opened(checked(part, update_file(), part.filename().string(), "updates the rows again"));
}

LayerFiles::Weights LayerFiles::weights(std::int64_t layer) {
  Weights weights{Safetensors::open(checked(layer, kWeights)), {}, {}};
  weights.down = weights.file.matrix(kDown, dense_.width, dense_.ffn);
  if (weights.file.has(kO))
    weights.o = weights.file.matrix(kO, dense_.width, dense_.heads * dense_.head_width);
  return weights;
}

double LayerFiles::stream_error(std::int64_t layer) const {
  const std::string name = file(layer, kDone).string();
  return get_number(parse_json(read_file(name, 1 << 16), name), "stream_error", name, 0, 1e300);
}

void LayerFiles::remove() const {
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.path().filename().string().starts_with("layer-")) fs::remove(entry.path());
}

}  // namespace stem
