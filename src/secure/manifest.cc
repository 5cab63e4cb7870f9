#include "secure/manifest.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/utc.h"
#include "io/file.h"
#include "io/json.h"

namespace stem {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kMaxFiles = 10'000;
constexpr std::size_t kMaxName = 1024;
constexpr const char* kTokenizer = "tokenizer.json";

const std::vector<std::string> kKeys{"format",           "uuid",        "model_version", "created", "expires",
                                     "tokenizer_sha256", "token_stats", "row_root",      "files"};

// A path below the directory, written in exactly one way, without anything that a terminal or a shell would
// act on.
bool is_safe_name(const std::string& name) {
  if (name.empty() || name.size() > kMaxName || name.front() == '/' || name.back() == '/') return false;
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\') return false;
  }
  for (const fs::path& part : fs::path(name)) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return name.find("//") == std::string::npos;
}

bool is_listed(const std::string& name) {
  return name != kManifestName && name != kSignatureName;
}

// Every entry below the directory that is no directory itself; links are not followed.
std::vector<std::string> names_below(const fs::path& directory) {
  std::error_code code;
  std::vector<std::string> names;
  for (auto entry = fs::recursive_directory_iterator(directory, code); !code && entry != fs::end(entry);
       entry.increment(code)) {
    if (entry->is_directory() && !entry->is_symlink()) continue;
    if (names.size() > kMaxFiles) {
      fail(ErrorCode::kMismatch, "{}: more than {} files: not a model directory", directory.string(),
           kMaxFiles);
    }
    names.push_back(entry->path().lexically_relative(directory).generic_string());
  }
  if (code) fail(ErrorCode::kIo, "{}: cannot list: {}", directory.string(), code.message());
  std::sort(names.begin(), names.end());
  return names;
}

// Where the name really leads, links followed, lies below the directory.
bool leads_inside(const fs::path& directory, const std::string& name) {
  std::error_code code;
  const fs::path root = fs::canonical(directory, code);
  if (code) return false;
  const fs::path real = fs::weakly_canonical(directory / name, code);
  if (code) return false;
  return std::mismatch(root.begin(), root.end(), real.begin(), real.end()).first == root.end();
}

Digest get_digest(const Json& json, std::string_view key, std::string_view name) {
  const std::string text = get_string(json, key, name);
  Digest digest{};
  if (!from_hex(text, &digest)) {
    fail(ErrorCode::kFormat, "{}: {}: expected 64 lower-case hexadecimal digits, found {}", name, key,
         shown(Json(text)));
  }
  return digest;
}

std::string get_time(const Json& json, std::string_view key, std::string_view name) {
  const std::string text = get_string(json, key, name);
  std::time_t ignored = 0;
  if (!parse_utc(text, &ignored)) {
    fail(ErrorCode::kFormat, "{}: {}: expected a time like 2026-01-31T12:00:00Z, found {}", name, key,
         shown(Json(text)));
  }
  return text;
}

Json to_json(const Manifest& manifest) {
  Json json;
  json["format"] = kManifestFormat;
  json["uuid"] = uuid_text(manifest.uuid);
  json["model_version"] = manifest.model_version;
  json["created"] = manifest.created;
  if (manifest.expires) json["expires"] = *manifest.expires;
  if (manifest.tokenizer) json["tokenizer_sha256"] = to_hex(*manifest.tokenizer);
  if (manifest.token_stats) json["token_stats"] = *manifest.token_stats;
  if (manifest.row_root) json["row_root"] = to_hex(*manifest.row_root);
  Json& files = json["files"] = Json::object();
  for (const auto& [name, entry] : manifest.files) {
    files[name] = {{"sha256", to_hex(entry.sha256)}, {"bytes", entry.bytes}};
  }
  return json;
}

}  // namespace

Manifest write_manifest(const fs::path& directory, Manifest draft) {
  if (draft.uuid == Uuid{}) draft.uuid = random_uuid();
  if (draft.created.empty()) draft.created = utc_text(std::time(nullptr));
  draft.files.clear();
  for (const std::string& name : names_below(directory)) {
    if (!is_listed(name)) continue;
    if (!is_safe_name(name)) {
      fail(ErrorCode::kMismatch, "{}: a file name that a manifest cannot hold: {}", directory.string(),
           shown(Json(name)));
    }
    if (fs::is_symlink(directory / name) && !leads_inside(directory, name)) {
      fail(ErrorCode::kMismatch, "{}: a link that leads out of the model: copy the file in",
           (directory / name).string());
    }
    ManifestEntry& entry = draft.files[name];
    entry.sha256 = sha256_file(directory / name, &entry.bytes);
  }
  const auto tokenizer = draft.files.find(kTokenizer);
  draft.tokenizer = tokenizer == draft.files.end() ? std::nullopt : std::optional(tokenizer->second.sha256);
  if (draft.token_stats && !draft.files.contains(*draft.token_stats)) {
    fail(ErrorCode::kMismatch, "{}: token_stats names {}, which is not there", directory.string(),
         *draft.token_stats);
  }
  write_file_atomic(directory / kManifestName, dump_json(to_json(draft)));
  return draft;
}

Manifest read_manifest(const fs::path& directory) {
  const fs::path path = directory / kManifestName;
  const std::string name = path.string();
  const Json json = parse_json(read_file(path, std::uint64_t{16} << 20), name, {.max_depth = 4});
  const std::string format = get_string(json, "format", name);
  if (format != kManifestFormat) {
    fail(ErrorCode::kFormat, "{}: format: expected \"{}\", found {}", name, kManifestFormat,
         shown(Json(format)));
  }
  check_keys(json, name, kKeys);
  Manifest manifest;
  const std::string uuid = get_string(json, "uuid", name);
  if (!parse_uuid(uuid, &manifest.uuid) || manifest.uuid == Uuid{}) {
    fail(ErrorCode::kFormat, "{}: uuid: expected a lower-case UUID, found {}", name, shown(Json(uuid)));
  }
  manifest.model_version = get_int(json, "model_version", name, 1);
  manifest.created = get_time(json, "created", name);
  if (find_field(json, "expires", name)) manifest.expires = get_time(json, "expires", name);
  if (find_field(json, "tokenizer_sha256", name))
    manifest.tokenizer = get_digest(json, "tokenizer_sha256", name);
  if (find_field(json, "row_root", name)) manifest.row_root = get_digest(json, "row_root", name);
  for (const auto& item : get_object(json, "files", name, kMaxFiles).items()) {
    const std::string where = name + ": files: " + shown(Json(item.key()));
    if (!is_safe_name(item.key()) || !is_listed(item.key())) {
      fail(ErrorCode::kFormat, "{}: not a path inside the model directory", where);
    }
    static const std::vector<std::string> entry_keys{"sha256", "bytes"};
    check_keys(item.value(), where, entry_keys);
    manifest.files[item.key()] = {get_digest(item.value(), "sha256", where),
                                  static_cast<std::uint64_t>(get_int(item.value(), "bytes", where, 0))};
  }
  if (find_field(json, "token_stats", name)) {
    manifest.token_stats = get_string(json, "token_stats", name);
    if (!manifest.files.contains(*manifest.token_stats)) {
      fail(ErrorCode::kFormat, "{}: token_stats: {} is not among the files", name,
           shown(Json(*manifest.token_stats)));
    }
  }
  return manifest;
}

std::vector<Difference> manifest_differences(const fs::path& directory, const Manifest& manifest,
                                             std::time_t now) {
  using Kind = Difference::Kind;
  std::vector<Difference> result;
  std::time_t until = 0;
  if (manifest.expires && (!parse_utc(*manifest.expires, &until) || until <= now)) {
    result.push_back({Kind::expired, "", *manifest.expires, utc_text(now),
                      fmt::format("{}: expired at {}, it is {}", (directory / kManifestName).string(),
                                  *manifest.expires, utc_text(now))});
  }
  const auto add = [&](Kind kind, const std::string& file, std::string expected, std::string found,
                       std::string_view what, std::string_view why) {
    std::string text = fmt::format("{}: {}expected {}, found {} (manifest {}){}", (directory / file).string(),
                                   what, expected, found, kManifestName, why);
    result.push_back({kind, file, std::move(expected), std::move(found), std::move(text)});
  };
  constexpr std::string_view kChanged = ": the file was changed after the model was saved";

  std::set<std::string> all;
  for (const std::string& name : names_below(directory)) {
    if (is_listed(name)) all.insert(name);
  }
  for (const auto& [name, entry] : manifest.files) all.insert(name);
  for (const std::string& name : all) {
    const auto listed = manifest.files.find(name);
    const fs::path path = directory / name;
    std::error_code code;
    if (listed == manifest.files.end()) {
      add(Kind::extra, name, "no such file", "one", "", ": the file was added after the model was saved");
    } else if (!fs::exists(fs::symlink_status(path, code))) {
      add(Kind::missing, name, fmt::format("{} bytes", listed->second.bytes), "no such file", "", "");
    } else if (!leads_inside(directory, name)) {
      add(Kind::outside, name, "a file inside the model directory", "a link that leads out of it", "", "");
    } else {
      const ManifestEntry& entry = listed->second;
      const std::uint64_t size = fs::is_regular_file(path, code) ? fs::file_size(path, code) : 0;
      if (!fs::is_regular_file(path, code)) {
        add(Kind::missing, name, "a regular file", "something else", "", "");
      } else if (size != entry.bytes) {
        add(Kind::size, name, fmt::format("{} bytes", entry.bytes), fmt::format("{} bytes", size), "",
            kChanged);
      } else if (const Digest found = sha256_file(path); found != entry.sha256) {
        add(Kind::digest, name, to_hex(entry.sha256), to_hex(found), "SHA-256 ", kChanged);
      }
    }
  }
  const auto tokenizer = manifest.files.find(kTokenizer);
  if (manifest.tokenizer &&
      (tokenizer == manifest.files.end() || tokenizer->second.sha256 != *manifest.tokenizer)) {
    add(Kind::tokenizer, kTokenizer, to_hex(*manifest.tokenizer),
        tokenizer == manifest.files.end() ? "no such file" : to_hex(tokenizer->second.sha256),
        "tokenizer_sha256 ", "");
  }
  return result;
}

Manifest verify_manifest(const fs::path& directory, std::time_t now) {
  Manifest manifest = read_manifest(directory);
  const std::vector<Difference> found = manifest_differences(directory, manifest, now);
  if (!found.empty()) {
    const std::string more = found.size() > 1 ? fmt::format("; {} more differences", found.size() - 1) : "";
    fail(ErrorCode::kIntegrity, "{}{}", found[0].text, more);
  }
  return manifest;
}

}  // namespace stem
