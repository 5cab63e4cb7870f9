// What a training run left on disk, as the report wants it.
#pragma once

#include <filesystem>
#include <span>

#include "report/run_report.h"

namespace stem {

/// Reads a run directory, or the model directory that it belongs to: settings.json, metrics.jsonl (a torn
/// last line, of a run that goes on or was killed, is left out), and the shape from the model's or the latest
/// checkpoint's config.json, if there is one yet. The log's name is the path as given. Throws kNotFound where
/// there is no run, kFormat naming file and line.
RunLog read_run_log(const std::filesystem::path& given);

/// Shortens the logs' names to the parts of their paths in which they differ.
void name_apart(std::span<RunLog> logs);

}  // namespace stem
