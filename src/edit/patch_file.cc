#include "edit/patch_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <set>
#include <tuple>

#include "core/error.h"
#include "core/utc.h"
#include "io/file.h"
#include "io/safetensors.h"

namespace stem {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFormat = "stem-patch/1";
constexpr const char* kRowsName = "patch.safetensors";
constexpr const char* kJsonName = "patch.json";
constexpr std::int64_t kMaxRows = 1'000'000;
constexpr std::int64_t kMaxTrigger = 64;  // ids before a token
constexpr std::uint64_t kMaxBytes = std::uint64_t{4} << 30;

const std::vector<std::string> kKeys{"format",           "id",      "mode",       "base_uuid", "row_root",
                                     "tokenizer_sha256", "dtype",   "method",     "sequence",  "created",
                                     "expires",          "request", "parameters", "scores"};

// The form only; whether it has passed is for the trust policy to judge.
std::string get_time(const Json& json, std::string_view key, const std::string& name) {
  const std::string text = get_string(json, key, name, 64);
  std::time_t ignored = 0;
  if (!parse_utc(text, &ignored)) {
    fail(ErrorCode::kFormat, "{}: {}: expected a time like 2026-01-31T12:00:00Z, found {}", name, key,
         shown(Json(text)));
  }
  return text;
}

std::string_view mode_name(PatchMode mode) {
  return mode == PatchMode::set ? "set" : "add";
}

// SHA-256 over the rows' file, the mode and the base: "the same rows, for another model" is another patch.
std::string patch_id(const fs::path& rows, PatchMode mode, const Uuid& base) {
  const MappedFile file(rows);
  if (file.size() > kMaxBytes) {
    fail(ErrorCode::kFormat, "{}: {} bytes, expected at most {}", rows.string(), file.size(), kMaxBytes);
  }
  Sha256 hash;
  hash.update("stem-patch-v1");
  hash.update(base.data(), base.size());
  const std::uint8_t code = mode == PatchMode::add ? 1 : 0;
  hash.update(&code, 1);
  const Digest bytes = sha256_file(rows);
  hash.update(bytes.data(), bytes.size());
  return to_hex(hash.finish());
}

// What both the writer and the reader hold to.
void check_rows(const PatchFile& patch, const std::string& name, ErrorCode code) {
  if (patch.rows.empty()) fail(code, "{}: rows: expected at least one, found none", name);
  std::set<std::tuple<std::int32_t, std::int32_t, std::vector<std::int32_t>>> seen;
  for (std::size_t i = 0; i < patch.rows.size(); ++i) {
    const PatchRow& row = patch.rows[i];
    if (row.token < 0) fail(code, "{}: token[{}]: expected at least 0, found {}", name, i, row.token);
    if (row.layer < 0) fail(code, "{}: layer[{}]: expected at least 0, found {}", name, i, row.layer);
    if (static_cast<std::int64_t>(row.values.size()) != patch.width || row.values.empty()) {
      fail(code, "{}: rows[{}]: expected {} values, found {}", name, i, patch.width, row.values.size());
    }
    for (std::size_t j = 0; j < row.values.size(); ++j) {
      if (!std::isfinite(row.values[j])) {
        fail(code, "{}: rows[{}][{}] (token {}, layer {}): expected a finite value, found {}", name, i, j,
             row.token, row.layer, row.values[j]);
      }
    }
    if (static_cast<std::int64_t>(row.trigger.size()) > kMaxTrigger) {
      fail(code, "{}: trigger of row {}: expected at most {} ids, found {}", name, i, kMaxTrigger,
           row.trigger.size());
    }
    for (const std::int32_t id : row.trigger) {
      if (id < 0) fail(code, "{}: trigger of row {}: expected ids of at least 0, found {}", name, i, id);
    }
    if (!seen.emplace(row.token, row.layer, row.trigger).second) {
      fail(code, "{}: row {}: token {}, layer {} with the same trigger stands twice", name, i, row.token,
           row.layer);
    }
  }
}

Digest get_digest(const Json& json, std::string_view key, const std::string& name) {
  const std::string text = get_string(json, key, name, 64);
  Digest digest{};
  if (!from_hex(text, &digest)) {
    fail(ErrorCode::kFormat, "{}: {}: expected 64 lower-case hexadecimal digits, found {}", name, key,
         shown(Json(text)));
  }
  return digest;
}

Json to_json(const PatchFile& patch) {
  Json json;
  json["format"] = kFormat;
  json["id"] = patch.id;
  json["mode"] = mode_name(patch.mode);
  json["base_uuid"] = uuid_text(patch.base_uuid);
  if (patch.base_row_root) json["row_root"] = to_hex(*patch.base_row_root);
  if (patch.tokenizer) json["tokenizer_sha256"] = to_hex(*patch.tokenizer);
  json["dtype"] = name_of(patch.dtype);
  json["method"] = patch.method;
  json["sequence"] = patch.sequence;
  json["created"] = patch.created;
  if (patch.expires) json["expires"] = *patch.expires;
  json["request"] = patch.request;
  json["parameters"] = patch.parameters;
  json["scores"] = patch.scores;
  return json;
}

PatchFile from_json(const Json& json, const std::string& name) {
  const std::string format = get_string(json, "format", name);
  if (format != kFormat) {
    fail(ErrorCode::kFormat, "{}: format: expected \"{}\", found {}", name, kFormat, shown(Json(format)));
  }
  check_keys(json, name, kKeys);
  PatchFile patch;
  patch.id = to_hex(get_digest(json, "id", name));
  const std::string mode = get_string(json, "mode", name, 16);
  if (mode != "set" && mode != "add") {
    fail(ErrorCode::kFormat, "{}: mode: expected \"set\" or \"add\", found {}", name, shown(Json(mode)));
  }
  patch.mode = mode == "set" ? PatchMode::set : PatchMode::add;
  const std::string uuid = get_string(json, "base_uuid", name, 64);
  if (!parse_uuid(uuid, &patch.base_uuid)) {
    fail(ErrorCode::kFormat, "{}: base_uuid: expected a lower-case UUID, found {}", name, shown(Json(uuid)));
  }
  if (find_field(json, "row_root", name)) patch.base_row_root = get_digest(json, "row_root", name);
  if (find_field(json, "tokenizer_sha256", name))
    patch.tokenizer = get_digest(json, "tokenizer_sha256", name);
  const std::string dtype = get_string(json, "dtype", name, 16);
  bool known = false;
  for (const DType type : {DType::f32, DType::bf16, DType::f64, DType::f16, DType::u8, DType::i8}) {
    if (name_of(type) != dtype) continue;
    patch.dtype = type;
    known = true;
  }
  if (!known) fail(ErrorCode::kFormat, "{}: dtype: unknown type {}", name, shown(Json(dtype)));
  patch.method = get_string(json, "method", name, 256);
  patch.sequence = get_int(json, "sequence", name, 1);
  patch.created = get_time(json, "created", name);
  if (find_field(json, "expires", name)) patch.expires = get_time(json, "expires", name);
  patch.request = get_object(json, "request", name);
  patch.parameters = get_object(json, "parameters", name);
  patch.scores = get_object(json, "scores", name);
  return patch;
}

// Copies a tensor by read: a file that is cut meanwhile is an error, and alignment does not matter.
template <class T>
std::vector<T> copied(const Safetensors& file, const TensorInfo& info) {
  std::vector<T> values(info.bytes / sizeof(T));
  file.file().read_at(info.offset, values.data(), info.bytes);
  return values;
}

void read_rows(const fs::path& path, PatchFile& patch) {
  using Shape = std::vector<std::int64_t>;
  const std::string name = path.string();
  const Safetensors file = Safetensors::open(path);
  const TensorInfo& rows = file.expect("rows", DType::f32, Shape{-1, -1});
  const std::int64_t n = rows.shape[0];
  patch.width = rows.shape[1];
  if (n < 1 || n > kMaxRows || patch.width < 1) {
    fail(ErrorCode::kFormat, "{}: rows: expected [1 to {}, at least 1], found {}", name, kMaxRows,
         rows.described());
  }
  const auto layers = copied<std::int32_t>(file, file.expect("layer", DType::i32, Shape{n}));
  const auto tokens = copied<std::int32_t>(file, file.expect("token", DType::i32, Shape{n}));
  const auto offsets = copied<std::int32_t>(file, file.expect("trigger_offsets", DType::i32, Shape{n + 1}));
  const auto triggers = copied<std::int32_t>(file, file.expect("trigger_ids", DType::i32, Shape{-1}));
  const TensorInfo& leaves = file.expect("base_leaf", DType::u8, Shape{n, 32});
  if (file.tensors().size() != 6)
    fail(ErrorCode::kFormat, "{}: expected 6 tensors, found {}", name, file.tensors().size());
  if (offsets.front() != 0 || offsets.back() < 0 ||
      static_cast<std::size_t>(offsets.back()) != triggers.size() ||
      !std::is_sorted(offsets.begin(), offsets.end())) {
    fail(ErrorCode::kFormat, "{}: trigger_offsets: expected to rise from 0 to {}, found {} to {}", name,
         triggers.size(), offsets.front(), offsets.back());
  }
  patch.rows.resize(static_cast<std::size_t>(n));
  const auto row_bytes = static_cast<std::uint64_t>(patch.width) * sizeof(float);
  for (std::size_t i = 0; i < patch.rows.size(); ++i) {
    PatchRow& row = patch.rows[i];
    row.layer = layers[i];
    row.token = tokens[i];
    row.values.resize(static_cast<std::size_t>(patch.width));
    file.file().read_at(rows.offset + i * row_bytes, row.values.data(), row_bytes);
    row.trigger.assign(triggers.begin() + offsets[i], triggers.begin() + offsets[i + 1]);
    file.file().read_at(leaves.offset + i * row.base_leaf.size(), row.base_leaf.data(), row.base_leaf.size());
  }
  check_rows(patch, name, ErrorCode::kFormat);
}

}  // namespace

void require_patch_place(const fs::path& path) {
  const fs::path directory = path.filename().empty() ? path.parent_path() : path;  // "x.stempatch/"
  if (directory.extension() != ".stempatch")
    fail(ErrorCode::kUsage, "{}: expected a name that ends in .stempatch", path.string());
  replaceable_directory(directory, kJsonName);
}

void write_patch(const fs::path& path, PatchFile& patch) {
  require_patch_place(path);
  patch.width = patch.rows.empty() ? 0 : static_cast<std::int64_t>(patch.rows.front().values.size());
  if (patch.created.empty()) patch.created = utc_text(std::time(nullptr));
  check_rows(patch, path.string(), ErrorCode::kMismatch);

  const auto n = static_cast<std::int64_t>(patch.rows.size());
  std::vector<std::int32_t> layers, tokens, offsets{0}, triggers;
  for (const PatchRow& row : patch.rows) {
    layers.push_back(row.layer);
    tokens.push_back(row.token);
    triggers.insert(triggers.end(), row.trigger.begin(), row.trigger.end());
    offsets.push_back(static_cast<std::int32_t>(triggers.size()));
  }
  StagedDirectory stage(path, kJsonName);
  SafetensorsWriter writer(stage.file(kRowsName),
                           {{"rows", DType::f32, {n, patch.width}},
                            {"layer", DType::i32, {n}},
                            {"token", DType::i32, {n}},
                            {"trigger_offsets", DType::i32, {n + 1}},
                            {"trigger_ids", DType::i32, {static_cast<std::int64_t>(triggers.size())}},
                            {"base_leaf", DType::u8, {n, 32}}});
  for (const PatchRow& row : patch.rows)
    writer.write("rows", row.values.data(), row.values.size() * sizeof(float));
  const auto put = [&](const char* name, const std::vector<std::int32_t>& ids) {
    writer.write(name, ids.data(), ids.size() * sizeof(std::int32_t));
  };
  put("layer", layers);
  put("token", tokens);
  put("trigger_offsets", offsets);
  put("trigger_ids", triggers);
  for (const PatchRow& row : patch.rows)
    writer.write("base_leaf", row.base_leaf.data(), row.base_leaf.size());
  writer.close();
  patch.id = patch_id(stage.file(kRowsName), patch.mode, patch.base_uuid);
  write_file_atomic(stage.file(kJsonName), dump_json(to_json(patch)));
  read_patch(stage.path());  // what is handed out can be read back
  stage.commit();
}

PatchFile read_patch(const fs::path& path) {
  const fs::path json_path = path / kJsonName, rows_path = path / kRowsName;
  const std::string name = json_path.string();
  PatchFile patch = from_json(parse_json(read_file(json_path, std::uint64_t{64} << 20), name), name);
  const std::string found = patch_id(rows_path, patch.mode, patch.base_uuid);
  if (found != patch.id) {
    fail(ErrorCode::kIntegrity, "{}: id: expected {}, found {} from {}, mode and base: the patch was changed",
         name, patch.id, found, kRowsName);
  }
  read_rows(rows_path, patch);
  return patch;
}

void check_patch_base(const PatchFile& patch, const std::string& name, const PatchBase& base,
                      bool requantised) {
  if (patch.base_uuid != base.uuid) {
    fail(ErrorCode::kMismatch, "{}: base model: expected {}, found {}: made for another model", name,
         uuid_text(patch.base_uuid), uuid_text(base.uuid));
  }
  if (patch.tokenizer != base.tokenizer) {
    const auto text = [](const std::optional<Digest>& d) { return d ? to_hex(*d) : std::string("none"); };
    fail(ErrorCode::kMismatch, "{}: tokenizer SHA-256: expected {}, found {}: token ids may mean other texts",
         name, text(patch.tokenizer), text(base.tokenizer));
  }
  if (patch.width != base.width) {
    fail(ErrorCode::kMismatch, "{}: row width: expected {}, found {}", name, base.width, patch.width);
  }
  if (requantised && patch.mode == PatchMode::add) {
    fail(ErrorCode::kMismatch,
         "{}: mode add: expected the {} rows that it was made for, found a quantised copy", name,
         name_of(patch.dtype));
  }
  if (!requantised && patch.dtype != base.dtype) {
    fail(ErrorCode::kMismatch, "{}: dtype of the base table: expected {}, found {}", name,
         name_of(patch.dtype), name_of(base.dtype));
  }
  for (const PatchRow& row : patch.rows) {
    if (std::find(base.stem_layers.begin(), base.stem_layers.end(), row.layer) == base.stem_layers.end()) {
      fail(ErrorCode::kMismatch, "{}: layer {}: not a STEM layer of the base model", name, row.layer);
    }
    if (row.token >= base.vocab) {
      fail(ErrorCode::kMismatch, "{}: token {}: expected less than {}", name, row.token, base.vocab);
    }
    for (const std::int32_t id : row.trigger) {
      if (id >= base.vocab)
        fail(ErrorCode::kMismatch, "{}: trigger id {}: expected less than {}", name, id, base.vocab);
    }
    if (requantised || !base.leaf) continue;
    if (const Digest found = base.leaf(row.layer, row.token); found != row.base_leaf) {
      fail(ErrorCode::kIntegrity, "{}: base row (token {}, layer {}): SHA-256 expected {}, found {}", name,
           row.token, row.layer, to_hex(row.base_leaf), to_hex(found));
    }
  }
}

}  // namespace stem
