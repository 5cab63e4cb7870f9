#include "apps/run_files.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "apps/model_directory.h"
#include "apps/progress.h"
#include "io/file.h"

namespace stem {
namespace {

constexpr const char* kFormat = "stem-run/1";

bool is_checkpoint(const std::filesystem::directory_entry& entry) {
  return entry.is_directory() && !entry.is_symlink() && entry.path().filename().string().starts_with("step-");
}

}  // namespace

void write_run_record(const std::filesystem::path& run, const RunRecord& record) {
  Json json{{"format", kFormat}, {"data", record.data.string()}};
  if (!record.from.empty()) {
    json["from"] = record.from.string();
    json["from_uuid"] = record.from_uuid;
  }
  if (!record.teacher.empty()) {
    json["teacher"] = record.teacher.string();
    json["teacher_uuid"] = record.teacher_uuid;
  }
  write_file_atomic(run / kRunFile, dump_json(json));
}

RunRecord read_run_record(const std::filesystem::path& run) {
  const std::string path = (run / kRunFile).string();
  const Json json = parse_json(read_file(path), path);
  if (const std::string format = get_string(json, "format", path); format != kFormat) {
    fail(ErrorCode::kFormat, "{}: format: expected \"{}\", found \"{}\"", path, kFormat, format);
  }
  return {get_string(json, "data", path), get_string_or(json, "from", path, ""),
          get_string_or(json, "from_uuid", path, ""), get_string_or(json, "teacher", path, ""),
          get_string_or(json, "teacher_uuid", path, "")};
}

RunPaths find_run(const std::filesystem::path& given) {
  std::filesystem::path path = given;
  if (path.filename().empty()) path = path.parent_path();  // a trailing slash
  if (path.extension() == ".run" && std::filesystem::exists(path / kSettingsFile)) {
    std::filesystem::path model = path;
    return {path, model.replace_extension()};
  }
  const std::filesystem::path run = run_directory(path);
  if (!std::filesystem::exists(run / kSettingsFile)) {
    fail(ErrorCode::kNotFound, "{}: expected a training run ({}), found none", given.string(),
         (run / kSettingsFile).string());
  }
  return {run, path};
}

void require_no_model(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / kManifestName))
    fail(ErrorCode::kUsage, "{}: expected a folder of its own, found a model ({}), which it would damage",
         folder.string(), kManifestName);
}

std::filesystem::path whole_path(const std::filesystem::path& path) {
  return std::filesystem::weakly_canonical(std::filesystem::absolute(path));
}

void require_new_model(const std::filesystem::path& directory, bool replace,
                       const std::filesystem::path& source) {
  namespace fs = std::filesystem;
  replaceable_directory(directory);
  if (!replace && fs::exists(directory / kManifestName))
    fail(ErrorCode::kUsage,
         "{}: expected a new model directory, found a model ({}): name another, or say --replace",
         directory.string(), kManifestName);
  if (!source.empty() && whole_path(directory) == whole_path(source))
    fail(ErrorCode::kUsage, "{}: expected another directory than the model's own, which would be lost",
         directory.string());
  require_outside_models(directory);
}

void require_outside_models(const std::filesystem::path& file) {
  namespace fs = std::filesystem;
  for (fs::path outer = whole_path(file).parent_path(); outer != outer.root_path();
       outer = outer.parent_path()) {
    if (fs::exists(outer / kManifestName))
      fail(ErrorCode::kUsage, "{}: expected a place outside of every model, found one inside {}",
           file.string(), outer.string());
  }
}

void require_page_place(const std::filesystem::path& file) {
  namespace fs = std::filesystem;
  const fs::path folder = file.parent_path();
  if (!folder.empty() && !fs::is_directory(folder))
    fail(ErrorCode::kNotFound, "{}: expected a file in a folder that is there, found no folder {}",
         file.string(), folder.string());
  require_outside_models(file);
  if (!fs::exists(file)) return;
  if (!fs::is_regular_file(file))
    fail(ErrorCode::kUsage, "{}: expected a file, found something else of this name", file.string());
  constexpr std::string_view kPage = "<!DOCTYPE html>";
  std::string begin(kPage.size(), '\0');
  std::ifstream(file, std::ios::binary).read(begin.data(), static_cast<std::streamsize>(begin.size()));
  if (begin != kPage)
    fail(ErrorCode::kUsage,
         "{}: expected a new file or an HTML page, found another file, which would be lost", file.string());
}

void require_disk_space(const std::filesystem::path& place, double bytes) {
  namespace fs = std::filesystem;
  fs::path folder = fs::absolute(place);
  while (!fs::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
  std::error_code unknown;
  const auto space = fs::space(folder, unknown);
  if (!unknown && bytes > static_cast<double>(space.available))
    fail(ErrorCode::kIo, "{}: expected {} of free disk, found {}", place.string(), bytes_text(bytes),
         bytes_text(static_cast<double>(space.available)));
}

double memory_bytes() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

std::string checkpoint_name(std::int64_t step) {
  return fmt::format("step-{:08}", step);
}

void prune_checkpoints(const std::filesystem::path& folder, std::int64_t keep) {
  std::vector<std::filesystem::path> all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (is_checkpoint(entry) && entry.path().extension().empty()) all.push_back(entry.path());
  }
  std::sort(all.begin(), all.end());
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i)
    std::filesystem::remove_all(all[i]);
}

void remove_unfinished(const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (is_checkpoint(entry) && entry.path().filename().string().find(".partial-") != std::string::npos)
      std::filesystem::remove_all(entry.path());
  }
}

void truncate_metrics(const std::filesystem::path& path, std::int64_t last_step) {
  if (!std::filesystem::exists(path)) return;
  std::string kept;
  std::ifstream in(path);
  int number = 0;
  for (std::string line; std::getline(in, line) && !in.eof();) {  // eof: no newline, so not a whole line
    const std::string name = fmt::format("{}: line {}", path.string(), ++number);
    const Json row = parse_json(line, name);
    if (get_int(row, "step", name) <= last_step) kept += line + "\n";
  }
  write_file_atomic(path, kept);
}

Json metrics_row(const StepReport& r) {
  Json row{{"step", r.step},
           {"loss", r.loss},  // what is not finite is written as null
           {"lr", r.lr},
           {"table_lr", r.table_lr},
           {"norm_dense", r.norms.dense},
           {"norm_table", r.norms.table},
           {"tokens", r.tokens},
           {"distinct", r.distinct},
           {"seconds", r.seconds},
           {"tokens_per_s", r.seconds > 0 ? static_cast<double>(r.tokens) / r.seconds : 0.0}};
  if (r.targets != r.tokens) row["targets"] = r.targets;
  if (r.stream_loss != 0) row["stream_loss"] = r.stream_loss;
  if (!r.updated) row["updated"] = false;
  if (r.spike) {
    row["spike"] = {{"action", name_of(r.spike->action)}, {"documents", r.spike->documents}};
    if (r.spike->limit > 0) row["spike"]["limit"] = r.spike->limit;
  }
  if (r.router.layers > 0) {
    row["router_seconds"] = r.router.seconds;
    row["router_entropy"] = r.router.entropy;
    row["router_load"] = r.router.load_ratio;
    row["balance_loss"] = r.router.balance_loss;
    row["z_loss"] = r.router.z_loss;
  }
  return row;
}

}  // namespace stem
