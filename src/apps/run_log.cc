#include "apps/run_log.h"

#include <set>

#include "apps/model_directory.h"
#include "apps/run_files.h"
#include "apps/train_plan.h"
#include "io/file.h"

namespace stem {
namespace {

std::vector<Json> read_metrics(const std::filesystem::path& path) {
  std::vector<Json> lines;
  const std::string text = read_file(path);
  std::string_view rest = text;
  for (int number = 1;; ++number) {
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) return lines;  // nothing more, or a line that is being written
    if (end > 0)
      lines.push_back(parse_json(rest.substr(0, end), fmt::format("{}: line {}", path.string(), number)));
    rest.remove_prefix(end + 1);
  }
}

// Where the shape of a run's model is told; empty if nowhere yet.
std::filesystem::path config_of(const std::filesystem::path& run) {
  std::filesystem::path model = run;
  if (model.extension() == ".run") model.replace_extension();
  for (const auto& place : {model / kConfigFile, run / kCheckpoints / kLatest / kConfigFile}) {
    if (std::filesystem::exists(place)) return place;
  }
  return {};
}

// The planned memory depends on settings that a run of another version may not have, and on its teacher,
// which may be gone: then it is not told.
Json planned_memory(const Json& settings, const ModelConfig& config) {
  Settings all;
  std::optional<ModelConfig> teacher;
  try {
    for (const auto& [key, value] : settings.items())
      all.set(key + "=" + (value.is_string() ? value.get<std::string>() : value.dump()));
    teacher = teacher_config(all);
  } catch (const Error&) {
    return nullptr;
  }
  // "auto" was decided by the machine that trained; bf16 is what most decide.
  const Precision precision{DType::f32, all.precision == "f32" ? DType::f32 : DType::bf16};
  return plan_training(all, config, precision, 0, teacher ? &*teacher : nullptr).memory_bytes;
}

}  // namespace

RunLog read_run_log(const std::filesystem::path& given) {
  const std::filesystem::path run =
      std::filesystem::exists(given / kMetricsFile) ? given : run_directory(given);
  if (!std::filesystem::exists(run / kMetricsFile)) {
    fail(ErrorCode::kNotFound, "{}: expected a training run ({}) or the model that one made, found neither",
         given.string(), kMetricsFile);
  }
  RunLog log;
  log.name = given.string();
  const std::string settings = (run / kSettingsFile).string();
  log.config = parse_json(read_file(settings), settings);
  log.metrics = read_metrics(run / kMetricsFile);
  if (const auto path = config_of(run); !path.empty()) {
    const ModelConfig config = config_from_json(parse_json(read_file(path), path.string()), path.string());
    const Accounting a = account(config);
    log.model = {{"dense_parameters", a.dense_parameters},
                 {"table_parameters", a.table_parameters},
                 {"active_parameters", a.active_parameters},
                 {"flops_per_token", a.flops_per_token},
                 {"memory_bytes", log.config.is_object() ? planned_memory(log.config, config) : Json()}};
  }
  return log;
}

void name_apart(std::span<RunLog> logs) {
  const auto tail = [](const std::string& name, std::size_t parts) {
    std::filesystem::path path = std::filesystem::path(name).lexically_normal(), kept;
    if (!path.has_filename()) path = path.parent_path();
    for (; parts > 0 && path.has_filename(); --parts, path = path.parent_path())
      kept = kept.empty() ? path.filename() : path.filename() / kept;
    return kept.empty() ? name : kept.string();
  };
  constexpr std::size_t kMostParts = 8;
  for (std::size_t parts = 1; parts <= kMostParts; ++parts) {
    std::set<std::string> names;
    for (const RunLog& log : logs) names.insert(tail(log.name, parts));
    if (names.size() < logs.size()) continue;
    for (RunLog& log : logs) log.name = tail(log.name, parts);
    return;
  }
}

}  // namespace stem
