// The files of a training run beside its model: settings, metrics, checkpoints (docs/formats/checkpoint.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "io/json.h"
#include "train/trainer.h"

namespace stem {

inline constexpr const char* kMetricsFile = "metrics.jsonl";
inline constexpr const char* kSettingsFile = "settings.json";
inline constexpr const char* kRunFile = "run.json";
inline constexpr const char* kCheckpoints = "checkpoints";  ///< folder of checkpoint_name(step)
inline constexpr const char* kLatest = "latest";            ///< in it, a link to the newest

/// Where a run's inputs are: what `stem resume` needs besides the settings.
struct RunRecord {
  std::filesystem::path data;  ///< data directory, absolute
  std::filesystem::path from;  ///< model that the run started from, absolute; empty: drawn from the seed
  std::string from_uuid;       ///< of that model
  std::filesystem::path teacher = {};  ///< model that the run learns from, absolute; empty: from text alone
  std::string teacher_uuid = {};       ///< of that model
};
void write_run_record(const std::filesystem::path& run, const RunRecord& record);
/// Throws kNotFound or kFormat naming the file.
RunRecord read_run_record(const std::filesystem::path& run);

/// A run's folder and the model that it writes, from either of the two names. Throws kNotFound when there is
/// no run.
struct RunPaths {
  std::filesystem::path run, model;
};
RunPaths find_run(const std::filesystem::path& given);

/// Throws kUsage where `folder` is a model's: files that its manifest does not name, or a changed tokenizer,
/// would make that model unreadable.
void require_no_model(const std::filesystem::path& folder);

/// The absolute path that links and dots lead to; what does not exist yet is taken as it is written.
std::filesystem::path whole_path(const std::filesystem::path& path);

/// Throws kUsage where a model is already, unless `replace`; inside another model's directory, whose manifest
/// lists every file in it; at `source`, the model that the new one is made of; and where StagedDirectory
/// would not put one.
void require_new_model(const std::filesystem::path& directory, bool replace = false,
                       const std::filesystem::path& source = {});

/// Throws kUsage for a path inside a model's directory: its manifest lists every file in it.
void require_outside_models(const std::filesystem::path& file);

/// Throws kUsage for a page that could not be written to `file`, or would be in place of what is no page of
/// ours: told before the work that it is to show. kNotFound where its folder is not there.
void require_page_place(const std::filesystem::path& file);

/// Throws kIo where the disk that `place` is to be on has less than `bytes` free, before hours of writing.
void require_disk_space(const std::filesystem::path& place, double bytes);

/// This machine's.
double memory_bytes();

/// "step-00000012".
std::string checkpoint_name(std::int64_t step);
/// Removes all but the newest `keep` checkpoints; names sort by step.
void prune_checkpoints(const std::filesystem::path& folder, std::int64_t keep);
/// Removes what runs that were killed while saving left behind: their own destructors never ran.
void remove_unfinished(const std::filesystem::path& folder);

/// Keeps the metrics of steps that the checkpoint has seen; a killed run may have logged more, and its last
/// line may be torn.
void truncate_metrics(const std::filesystem::path& path, std::int64_t last_step);
/// One line of metrics.jsonl.
Json metrics_row(const StepReport& report);

}  // namespace stem
